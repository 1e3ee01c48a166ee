"""One harness for every row of the fault matrix: it posts jobs, keeps canaries running, and checks the invariants.

I1  one JSON answer for each request, within the job timeout plus one second, never an empty 500
I2  within 2 s of the end, processes, zombies, descriptors, threads and shared memory are back to where they were
I3  a canary job every 100 ms throughout (250 in long tests), each a 200; the event loop's lag is under 100 ms
I4  the job server's ledger has at most one submission per job that it did not refuse
I5  each job reaches exactly one terminal state, and answers, log, counters and ledger add up (accounts.py)
I6  no traceback, token or secret in an answer or in the log
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from aiohttp import (
    ClientConnectionResetError,
    ClientError,
    ClientOSError,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
    TCPConnector,
)

from tests.chaos.support import snapshot
from tests.chaos.support.accounts import Accounts
from tests.chaos.support.canaries import Canaries
from tests.chaos.support.figures import Figures
from tests.chaos.support.processes import FaultyProxy, JobServerProcess
from tests.chaos.support.raw import Raw, connect
from tests.chaos.support.reply import Reply
from tests.support.http import Answer, fetch, new_ref
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually

__all__ = ["HASTY", "LAG_S", "PATIENT", "TIMEOUT_S", "Chaos", "Reply"]

#: D in the matrix: the job timeout of proxies whose tests wait for the deadline.
TIMEOUT_S: Final = 2.0
#: The settings of those proxies; all others have longer times, so that a busy machine changes no answer.
HASTY: Final = {"JOB_TIMEOUT": str(TIMEOUT_S), "LOST_REPLY_WAIT": "0.5"}
PATIENT: Final = {"JOB_TIMEOUT": "30", "LOST_REPLY_WAIT": "5"}
_LEAK_S: Final = 2.0
#: For what is counted a moment after it was seen: by the log's thread, or in the ledger after a callback.
_ADD_UP_S: Final = 3.0
#: How long the front end keeps a connection without a request.
_IDLE_S: Final = 5.0
_STILL_S: Final = 0.03
#: How often to look for many jobs in the ledger.
_MANY_S: Final = 0.1
#: After the promised time: how long to go on waiting for the answer, to say what it was.
_IN_VAIN_S: Final = 40.0
_PIPELINE_S: Final = 0.3
LAG_S: Final = 0.1
_TOKEN_CHARS: Final = 43
_TERMINAL: Final = frozenset({"job succeeded", "job failed"})


@dataclass
class Chaos:
    """A test of one row: `async with Chaos(proxy, job_server) as chaos`."""

    proxy: FaultyProxy
    job_server: JobServerProcess
    #: A job is answered within this plus one second, whatever the proxy's own limit is.
    timeout_s: float = TIMEOUT_S
    #: Whether canaries run.
    canaries: bool = True
    lag_s: float = LAG_S
    #: How long the proxy keeps workers in excess of its spares.
    surplus_s: float = 0.0
    #: In rows in which the front end itself ends, it cannot be asked afterwards: its counters are gone with it.
    ends: bool = False
    session: ClientSession = field(init=False)
    flock: Canaries = field(init=False)
    replies: list[Reply] = field(default_factory=list)
    #: The answers to this test's own callbacks.
    called_back: list[Answer] = field(default_factory=list)
    #: Jobs whose clients left without an answer.
    abandoned: int = 0
    #: Requests whose answers nobody reads.
    unheard: float = 0
    _log_from: int = 0
    _raws: list[Raw] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        timeout = ClientTimeout(total=self.timeout_s + _IN_VAIN_S)
        self._fork_server_pid = self.proxy.fork_server_pid()
        self.session = ClientSession(connector=TCPConnector(force_close=True, limit=0), timeout=timeout)
        self.flock = Canaries(self._post, self.story, TIMEOUT_S)
        if not self.proxy.warm:  # what it opens and starts only once is no leak
            await asyncio.gather(*(self._post({}) for _ in range(8)))
            await eventually(lambda: len(self.ended()) >= 8)
            self.proxy.warm = True
        await self._settle()
        await eventually(self._begin_accounts)
        self._before = self._snapshot()
        self._acts_before = len(self.proxy.acts())
        self.connections_before = self.proxy.connections()
        self.proxy.reset_lag()
        await eventually(lambda: self.proxy.late_looks()[0])
        if self.canaries:
            self.flock.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            await self.flock.stop()
            if kind is None:
                await self._check()
        finally:
            self.proxy.end_lag()
            for raw in self._raws:  # of a test that failed: a later one would be blamed for what it left open
                raw.writer.transport.abort()
            await self.session.close()

    # --- what a test does --------------------------------------------------------------------------------------------

    async def job(self, **fields: object) -> Reply:
        """Post a job with a unique account and `ref`, and check its answer (I1)."""
        reply = await self._post(fields)
        self.replies.append(reply)
        return reply

    async def _post(self, fields: dict[str, object]) -> Reply:
        ref = str(fields.get("ref") or new_ref())
        job = {"account": ref, **fields, "ref": ref}
        while True:
            sent_at, watch = time.monotonic(), self._stopwatch()
            with self._closed_as_idle(sent_at):
                answer = await fetch(self.session, "POST", self.proxy.queue_job, json=job)
                break
        reply = Reply(ref, answer, sent_at, time.monotonic(), watch.starved_s + self.proxy.starved_s(ref))
        if reply.own_s >= self.timeout_s + 1:
            story = [line for line in self._log_lines() if line.get("job_id") == reply.job_id]
            raise AssertionError(f"{reply.took_s:.2f} s, {reply.own_s:.2f} of its own, for {fields}: {answer}; {story}")
        assert reply.status == 200 or isinstance(reply.document, dict), answer  # a result is the callback's body
        assert answer.headers["Content-Type"] in {"application/json", "application/problem+json"}
        return reply

    @contextlib.contextmanager
    def _closed_as_idle(self, sent_at: float) -> Iterator[None]:
        """Ignore the end of a connection that was idle for as long as the front end waits for a request.

        Where this process waited for CPU time, that limit can pass between connecting and sending (RFC 9112, 9.5). No
        job was made then; otherwise the accounts do not add up.
        """
        try:
            yield
        except (ServerDisconnectedError, ClientConnectionResetError, ClientOSError):
            if time.monotonic() - sent_at < _IDLE_S:
                raise

    def _stopwatch(self) -> Stopwatch:
        """Start a stopwatch for a job; its worker is not known yet, and reports its own waiting time."""
        return Stopwatch(self.proxy.pid, self._fork_server_pid, self.job_server.pid)

    async def workers(self) -> list[dict[str, Any]]:
        """Return the admin route's answer about the workers, oldest first."""
        found: list[dict[str, Any]] = (await fetch(self.session, "GET", f"{self.proxy.admin}/workers")).document
        return found

    def ended(self) -> Counter[str]:
        """Return how often each job has ended, according to the log."""
        return Counter(line["job_id"] for line in self._ends())

    def late(self) -> list[str]:
        """Return the jobs whose results came late, according to the log."""
        return [line["job_id"] for line in self._log_lines('"late"') if line.get("late")]

    def has_ended(self, *accounts: str) -> bool:
        """Return whether a job of each of these accounts has ended, according to the log."""
        return {line["labels"]["account"] for line in self._ends() if "labels" in line} >= set(accounts)

    async def forget_abandoned(self, at_most: int) -> None:
        """Add the proxy's count of jobs whose clients left, which must be at most `at_most`."""
        async with self.flock.quiet():
            before = -1
            while before != self.abandoned:  # the proxy is also at rest between two requests of a pipeline
                before = self.abandoned
                await asyncio.sleep(_PIPELINE_S)
                await self._settle()
                self.abandoned = len(self._unanswered())
        assert self.abandoned <= at_most, "a job ended that nobody sent"

    def _unanswered(self) -> set[str]:
        return self.ended().keys() - {str(reply.job_id) for reply in self._all_replies()}

    def _all_replies(self) -> list[Reply]:
        return self.replies + self.flock.replies

    async def raw(self, requests: int = 1, *, receive_bytes: int | None = None) -> Raw:
        """Return a bare connection for this many requests, whose answers the harness does not see."""
        self.unheard += requests
        raw = await connect(self.proxy.url, self.proxy.pid, receive_bytes=receive_bytes)
        self._raws.append(raw)
        return raw

    async def stop_a_spare_and_give_it_a_job(self) -> tuple[int, asyncio.Task[Reply]]:
        """Stop every spare, post a job, and resume those without it; return the worker with the job, and the answer."""
        async with self.flock.quiet():
            spares: list[int] = await eventually(self._all_spares)
            for pid in spares:
                os.kill(pid, signal.SIGSTOP)
            job = asyncio.ensure_future(self.job())

            async def holder() -> int | None:
                return next((w["pid"] for w in await self.workers() if w["pid"] in spares and w["job_id"]), None)

            stopped: int = await eventually(holder)
            for pid in spares:
                if pid != stopped:
                    os.kill(pid, signal.SIGCONT)
        return stopped, job

    async def _all_spares(self) -> list[int] | None:
        """Return the pids of the spares once there are as many as configured; one more might get the next job."""
        spares = [worker["pid"] for worker in await self.workers() if worker["state"] == "spare"]
        return spares if len(spares) == self.proxy.spares else None

    async def has_job(self, pid: int) -> bool:
        """Return whether the worker `pid` has a job."""
        return any(worker["pid"] == pid and worker["job_id"] for worker in await self.workers())

    async def act(self, ref: str) -> dict[str, Any]:
        """Return what the job `ref` made its worker do, once it did it: time, pid, phase."""
        act: dict[str, Any] = await eventually(lambda: next((a for a in self.proxy.acts() if a["ref"] == ref), None))
        return act

    async def ledger(self) -> dict[str, Any]:
        """Return the job server's ledger."""
        ledger: dict[str, Any] = (await fetch(self.session, "GET", f"{self.job_server.base}/ledger")).document
        return ledger

    async def ledger_summary(self) -> dict[str, Any]:
        """Return the ledger's counts."""
        found: dict[str, Any] = (await fetch(self.session, "GET", f"{self.job_server.base}/ledger/summary")).document
        return found

    async def act_of_any(self, count: int) -> None:
        """Wait until workers have done `count` things because jobs of this test asked for it."""
        await eventually(lambda: len(self.proxy.acts()) >= self._acts_before + count)

    async def story(self, ref: str) -> dict[str, Any]:
        """Return what the job server knows about the job `ref`."""
        ledger = await self.ledger()
        submissions = [entry for entry in ledger["submissions"] if entry["ref"] == ref]
        ids = {entry["id"] for entry in submissions}
        return {"submissions": submissions, "callbacks": [call for call in ledger["callbacks"] if call["id"] in ids]}

    async def submission(self, ref: str) -> dict[str, Any]:
        """Return the submission of the job `ref`, once the job server has it."""

        async def find() -> dict[str, Any] | None:
            found = [entry for entry in (await self.ledger())["submissions"] if entry["ref"] == ref]
            return found[-1] if found else None

        entry: dict[str, Any] = await eventually(find, every_s=_STILL_S)
        return entry

    async def callback_url(self, ref: str) -> str:
        """Return the callback address of the job `ref`, once the job server knows it."""
        return str((await self.submission(ref))["callback"])

    async def callback_urls(self, refs: Collection[str]) -> list[str]:
        """Return the callback addresses of many jobs, once the job server knows all of them."""

        async def find() -> list[str] | None:
            found = {entry["ref"]: str(entry["callback"]) for entry in (await self.ledger())["submissions"]}
            return [found[ref] for ref in refs] if found.keys() >= set(refs) else None

        urls: list[str] = await eventually(find, every_s=_MANY_S)
        return urls

    async def call_back(self, url: str, body: bytes = b'{"state": "completed"}', **options: Any) -> Answer:
        """Send a callback."""
        answer = await fetch(self.session, "POST", url, data=body, **options)
        self.called_back.append(answer)
        return answer

    # --- what always holds -------------------------------------------------------------------------------------------

    @property
    def _look_s(self) -> float:
        """How often to look whether all is at rest: a look takes milliseconds."""
        return _STILL_S + self.surplus_s / 50

    def _snapshot(self) -> snapshot.Snapshot:
        return snapshot.take(self.proxy.pid, self.proxy.folder)

    async def _settle(self) -> None:
        """Wait until the proxy is at rest: every worker is a spare, and there are as many as configured."""

        async def at_rest() -> bool:
            with contextlib.suppress(ClientError, OSError):
                workers = await self.workers()
                at_rest = all(worker["state"] == "spare" for worker in workers)
                return len(workers) == self.proxy.spares and at_rest and await self._ready()
            return False

        await eventually(at_rest, every_s=self._look_s)
        still = [self._snapshot()]

        async def unchanged() -> bool:
            await asyncio.sleep(_STILL_S)
            still.append(self._snapshot())
            workers = len(await self.workers())
            return still[-1] == still[-2] and not still[-1].zombies and still[-1].processes == workers + 1

        await eventually(unchanged)

    async def _ready(self) -> bool:
        return (await fetch(self.session, "GET", f"{self.proxy.url}/readyz")).status == 200

    async def _check(self) -> None:
        if not self.ends:
            await self._check_leaks()
            own_s, story = self.proxy.lag_s()
            assert own_s < self.lag_s, f"the event loop was held up for {own_s:.3f} s ({story})"
        await self._check_accounts()
        await self._check_secrets()

    async def _check_leaks(self) -> None:
        more: dict[str, object] = {}

        def back() -> bool:
            nonlocal more
            more = self._snapshot().more_than(self._before)
            return not more

        watch = self.proxy.stopwatch()
        while not back():
            assert watch.own_s < _LEAK_S + self.surplus_s, f"not back where it was: {more}"
            await asyncio.sleep(self._look_s)

    async def _begin_accounts(self) -> bool:
        """Begin every account now; return whether all begin at the same state, as nothing changed meanwhile."""
        async with self.session.delete(f"{self.job_server.base}/ledger"):
            pass
        self._log_from = len(self.proxy.stderr)
        self._figures_before = await self._figures()
        await asyncio.sleep(_STILL_S)  # for what is already counted but not yet logged or in the ledger
        now, summary = await self._figures(), await self.ledger_summary()
        moved = now.by("callbacks_total", "kind") - self._figures_before.by("callbacks_total", "kind")
        return not moved and not summary["callbacks"] and len(self.proxy.stderr) == self._log_from

    async def _figures(self) -> Figures:
        return Figures((await fetch(self.session, "GET", f"{self.proxy.admin}/metrics")).body.decode())

    async def _accounts(self) -> Accounts:
        figures = None if self.ends else await self._figures()
        ledger = await self.ledger()
        here = f"{self.proxy.callback}/callback/"
        return Accounts(
            replies=self._all_replies(),
            abandoned=self.abandoned,
            called_back=self.called_back,
            unheard=self.unheard,
            ended=self._ends(),
            late=len(self.late()),
            submissions=[entry for entry in ledger["submissions"] if str(entry["callback"]).startswith(here)],
            callbacks=[entry for entry in ledger["callbacks"] if entry["callback"].startswith(here)],
            before=self._figures_before,
            after=figures,
        )

    async def _check_accounts(self) -> None:
        watch = self._stopwatch()
        while differences := (await self._accounts()).differences():
            errors = [f"log: {line}" for line in self._log_lines() if line.get("level") == "error"]
            assert watch.own_s < _ADD_UP_S, "the accounts do not add up: " + "\n".join(differences + errors)
            await asyncio.sleep(_STILL_S)

    async def _check_secrets(self) -> None:
        submissions = (await self.ledger())["submissions"]
        tokens = {entry["callback"].rpartition("/")[2] for entry in submissions if entry["callback"]}
        assert {len(token) for token in tokens} <= {_TOKEN_CHARS}
        log = "\n".join(self.proxy.stderr[self._log_from :])
        seen = [reply.answer for reply in self._all_replies()] + self.called_back
        answers = b"\n".join({answer.body for answer in seen}).decode()  # many are the same, and some are large
        for where, text in (("the log", log), ("an answer", answers)):
            assert "Traceback" not in text, f"a traceback in {where}: {text[text.index('Traceback') :][:2000]}"
            runs = set(re.findall(rf"[0-9A-Za-z_-]{{{_TOKEN_CHARS},}}", text))
            ends = (run[at : at + _TOKEN_CHARS] for run in runs for at in range(len(run) - _TOKEN_CHARS + 1))
            assert not tokens.intersection(ends), f"a token in {where}"

    def _ends(self) -> list[dict[str, Any]]:
        return [line for line in self._log_lines(*_TERMINAL) if line.get("event") in _TERMINAL]

    def _log_lines(self, *words: str) -> list[dict[str, Any]]:
        """Return the lines that are JSON, parsed; only those with one of the `words`, if there are any."""
        found = []
        for line in self.proxy.stderr[self._log_from :]:
            if words and not any(word in line for word in words):
                continue
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]
