"""One harness for every row of the fault matrix: it posts jobs, keeps canaries flying, and checks what always holds.

I1  one JSON answer a request, within the job timeout and a second, never an empty 500
I2  within 2 s of the end processes, zombies, descriptors, threads and shared memory are back where they were
I3  a canary job every 100 ms all through, each one 200; the event loop's lag under 100 ms
I4  the job server's ledger has at most one submission a job that it did not refuse
I5  each job reaches exactly one terminal state, and the counts add up
I6  no traceback, token or secret in an answer or in the log
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.chaos.support import snapshot
from tests.chaos.support.processes import FaultyProxy, JobServerProcess
from tests.support.http import Answer, fetch, new_ref
from tests.support.waiting import eventually

__all__ = ["LAG_S", "TIMEOUT_S", "Chaos", "Reply"]

#: The job timeout of every proxy here, D in the matrix.
TIMEOUT_S: Final = 2.0
_CANARY_S: Final = 0.1
_LEAK_S: Final = 2.0
LAG_S: Final = 0.1
_TOKEN_CHARS: Final = 43
_TERMINAL: Final = frozenset({"job succeeded", "job failed"})


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a job, and when it came."""

    ref: str
    answer: Answer
    sent_at: float
    answered_at: float
    #: How much of the time between went by while front end and test had to wait for a processor.
    waited_s: float

    @property
    def own_s(self) -> float:
        """From the request to the whole answer, less what is the machine's doing."""
        return self.took_s - self.waited_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.answer.status

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON is what it is
        """The body, parsed."""
        return self.answer.document

    @property
    def code(self) -> str | None:
        """The problem's code; None for a result."""
        return None if self.status == 200 else str(self.document["code"])

    @property
    def submitted(self) -> str:
        """What the answer says about the job server."""
        return "yes" if self.status == 200 else str(self.document["submitted"])

    @property
    def summary(self) -> tuple[int, str | None, str]:
        """What a row of the matrix names: status, code, submitted."""
        return self.status, self.code, self.submitted

    @property
    def job_id(self) -> str | None:
        """The job's id; None where no job was made."""
        return self.answer.headers.get("Job-Id")

    @property
    def took_s(self) -> float:
        """From the request to the whole answer."""
        return self.answered_at - self.sent_at


@dataclass
class Chaos:
    """A test of one row: `async with Chaos(proxy, job_server) as chaos`."""

    proxy: FaultyProxy
    job_server: JobServerProcess
    timeout_s: float = TIMEOUT_S
    #: Whether canaries fly.
    canaries: bool = True
    lag_s: float = LAG_S
    #: Rows in which the front end itself ends cannot ask it afterwards.
    ends: bool = False
    session: ClientSession = field(init=False)
    replies: list[Reply] = field(default_factory=list)
    canary_replies: list[Reply] = field(default_factory=list)
    #: Jobs whose clients left without an answer.
    abandoned: int = 0
    _pause: bool = False
    _log_from: int = 0
    _flying: int = 0
    _allowed: set[int] = field(default_factory=lambda: {200})
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def __aenter__(self) -> Self:
        timeout = ClientTimeout(total=self.timeout_s + 20)
        self.session = ClientSession(connector=TCPConnector(force_close=True, limit=0), timeout=timeout)
        if not self.proxy.warm:  # what it opens and starts once for all is no leak
            await asyncio.gather(*(self._post({}) for _ in range(8)))
            await eventually(lambda: len(self.ended()) >= 8)
            self.proxy.warm = True
        await self._settle()
        self._before = self._snapshot()
        self._acts_before = len(self.proxy.acts())
        self.connections_before = self.proxy.connections()
        self._log_from = len(self.proxy.stderr)
        self.proxy.reset_lag()
        self._flight = asyncio.ensure_future(self._fly()) if self.canaries else None
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._flight is not None:
                self._flight.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._flight
            if kind is None:
                await self._check()
        finally:
            await self.session.close()

    # --- what a test does --------------------------------------------------------------------------------------------

    async def job(self, **fields: object) -> Reply:
        """Post a job under an account and a `ref` of its own, and check its answer (I1)."""
        reply = await self._post(fields)
        self.replies.append(reply)
        return reply

    async def _post(self, fields: dict[str, object]) -> Reply:
        ref = str(fields.get("ref") or new_ref())
        sent_at, waited_s = time.monotonic(), self._waited_s()
        answer = await fetch(self.session, "POST", self.proxy.queue_job, json={"account": ref, **fields, "ref": ref})
        reply = Reply(ref, answer, sent_at, time.monotonic(), self._waited_s() - waited_s)
        assert reply.own_s < self.timeout_s + 1, f"{reply.took_s:.2f} s for {fields}: {answer}"
        assert isinstance(reply.document, dict), answer
        assert answer.headers["Content-Type"] in {"application/json", "application/problem+json"}
        return reply

    def _waited_s(self) -> float:
        """Return how long front end and test have waited for a processor so far: the machine's doing, not theirs."""
        waited_s = 0.0
        for pid in (self.proxy.pid, os.getpid()):
            with contextlib.suppress(OSError):
                waited_s += int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
        return waited_s

    @contextlib.contextmanager
    def canaries_may_get(self, *statuses: int) -> Iterator[None]:
        """Allow canaries that are posted meanwhile other answers than 200: the row says so."""
        before, self._allowed = self._allowed, self._allowed | set(statuses)
        try:
            yield
        finally:
            self._allowed = before

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Have the next spare for oneself: no canary is under way, and none leaves for a moment."""
        self._pause = True
        await eventually(lambda: not self._flying)
        try:
            yield
        finally:
            self._pause = False

    async def workers(self) -> list[dict[str, Any]]:
        """Return what the admin route says about the workers, oldest first."""
        found: list[dict[str, Any]] = (await fetch(self.session, "GET", f"{self.proxy.admin}/workers")).document
        return found

    def ended(self) -> Counter[str]:
        """Return how often each job has ended, by the log."""
        return Counter(line["job_id"] for line in self._log_lines() if line.get("event") in _TERMINAL)

    def ended_well(self, count: int) -> bool:
        """Return whether so many jobs have ended besides those that were answered."""
        answered = {reply.job_id for reply in self.replies + self.canary_replies}
        return len(self.ended().keys() - answered) >= count + self._flying

    async def forget_abandoned(self, refs: list[str] | None) -> None:
        """Count the jobs that nobody waits for as the proxy did; of each of `refs` there is at most one."""
        await self._settle()
        answered = {reply.job_id for reply in self.replies + self.canary_replies}
        self.abandoned = len(self.ended().keys() - answered)
        if refs is not None:
            assert self.abandoned <= len(refs) + self._flying

    async def stop_a_spare_and_give_it_a_job(self) -> tuple[int, asyncio.Task[Reply]]:
        """Stop every spare, post a job, and let go on whoever did not get it; return who did, and the job's answer."""
        async with self.quiet():
            spares = [worker["pid"] for worker in await self.workers() if worker["state"] == "spare"]
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

    async def has_job(self, pid: int) -> bool:
        """Return whether the worker `pid` has a job."""
        return any(worker["pid"] == pid and worker["job_id"] for worker in await self.workers())

    async def act(self, ref: str) -> dict[str, Any]:
        """Return what the job `ref` had its worker do, once it did: instant, pid, phase."""
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
        """Wait until workers have done `count` things that jobs of this test had them do."""
        await eventually(lambda: len(self.proxy.acts()) >= self._acts_before + count)

    async def land(self) -> None:
        """Wait until no canary is under way: what those got that fly later counts again."""
        async with self.quiet():
            pass

    async def ground(self) -> None:
        """Fly no more canaries in this test: nobody can connect."""
        self._pause = True
        await eventually(lambda: not self._flying)

    async def story(self, ref: str) -> dict[str, Any]:
        """Return what the job server knows of the job `ref`."""
        ledger = await self.ledger()
        submissions = [entry for entry in ledger["submissions"] if entry["ref"] == ref]
        ids = {entry["id"] for entry in submissions}
        return {"submissions": submissions, "callbacks": [call for call in ledger["callbacks"] if call["id"] in ids]}

    async def submission(self, ref: str) -> dict[str, Any]:
        """Return the submission of the job `ref`, once the job server has it."""

        async def find() -> dict[str, Any] | None:
            found = [entry for entry in (await self.ledger())["submissions"] if entry["ref"] == ref]
            return found[-1] if found else None

        entry: dict[str, Any] = await eventually(find)
        return entry

    async def callback_url(self, ref: str) -> str:
        """Return where the job server is to call for the job `ref`, once it knows."""
        return str((await self.submission(ref))["callback"])

    async def call_back(self, url: str, body: bytes = b'{"state": "completed"}', **options: Any) -> Answer:
        """Send a callback."""
        return await fetch(self.session, "POST", url, data=body, **options)

    # --- the canaries ------------------------------------------------------------------------------------------------

    async def _fly(self) -> None:
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            try:
                while True:
                    if not self._pause:
                        self._flying += 1
                        group.create_task(self._canary())
                    due = max(due + _CANARY_S, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
            except asyncio.CancelledError:
                pass  # those under way land first

    async def _canary(self) -> None:
        allowed = self._allowed
        try:
            reply = await self._post({"account": f"canary-{next(self._numbers)}"})
        finally:
            self._flying -= 1
        if reply.status not in allowed | self._allowed:
            raise AssertionError(
                f"a canary got {reply.answer} after {reply.took_s:.2f} s: {await self.story(reply.ref)}"
            )
        self.canary_replies.append(reply)

    # --- what always holds -------------------------------------------------------------------------------------------

    def _snapshot(self) -> snapshot.Snapshot:
        return snapshot.take(self.proxy.pid, self.proxy.folder)

    async def _settle(self) -> None:
        """Wait until the proxy is at rest: every worker a spare, and as many as there should be."""

        async def at_rest() -> bool:
            with contextlib.suppress(ClientError, OSError):
                workers = await self.workers()
                return bool(workers) and all(w["state"] == "spare" for w in workers) and await self._ready()
            return False

        await eventually(at_rest)
        still = [self._snapshot()]

        async def unchanged() -> bool:
            await asyncio.sleep(0.03)
            still.append(self._snapshot())
            workers = len(await self.workers())
            return still[-1] == still[-2] and not still[-1].zombies and still[-1].processes == workers + 1

        await eventually(unchanged)

    async def _ready(self) -> bool:
        return (await fetch(self.session, "GET", f"{self.proxy.url}/readyz")).status == 200

    async def _check(self) -> None:
        if not self.ends:
            await self._check_leaks()
            own_s, all_s = self.proxy.lag_s()
            assert own_s < self.lag_s, f"the event loop was held up for {own_s:.3f} s ({all_s:.3f} s in all)"
        if self.canaries and not self._pause:
            assert self.canary_replies, "no canary flew"
        await self._check_ledger()
        await self._check_log()

    async def _check_leaks(self) -> None:
        more: dict[str, object] = {}

        def back() -> bool:
            nonlocal more
            more = self._snapshot().more_than(self._before)
            return not more

        begun_s = time.monotonic() - self._waited_s()
        while not back():
            assert time.monotonic() - self._waited_s() - begun_s < _LEAK_S, f"not back where it was: {more}"
            await asyncio.sleep(0.02)

    async def _check_ledger(self) -> None:
        ledger = await self.ledger()
        assert ledger["summary"]["submitted_twice"] == 0
        runs = Counter(entry["ref"] for entry in ledger["submissions"] if not entry["refused"])
        for reply in self.replies + self.canary_replies:
            match reply.submitted:
                case "no":
                    assert runs[reply.ref] == 0, f"said `no`, but the job server has it: {reply}"
                case "yes":
                    assert runs[reply.ref] == 1, (
                        f"said `yes`, but the job server has it {runs[reply.ref]} times: {reply}"
                    )
                case unknown:
                    assert unknown == "unknown"
                    assert runs[reply.ref] <= 1

    async def _check_log(self) -> None:
        answered = [reply.job_id for reply in self.replies + self.canary_replies if reply.job_id is not None]
        assert len(set(answered)) == len(answered), "two jobs have one id"

        expected = len(answered) + self.abandoned
        try:
            await eventually(lambda: len(self.ended()) >= expected, 3)
        except AssertionError:
            raise AssertionError(f"{expected} jobs were begun, {len(self.ended())} have ended") from None
        counts = self.ended()
        assert set(counts.values()) <= {1}, "a job ended twice"
        assert set(answered) <= counts.keys()
        assert len(counts) == expected, f"{expected} jobs were begun, {len(counts)} have ended"
        await self._check_secrets()

    async def _check_secrets(self) -> None:
        submissions = (await self.ledger())["submissions"]
        tokens = {entry["callback"].rpartition("/")[2] for entry in submissions if entry["callback"]}
        assert {len(token) for token in tokens} <= {_TOKEN_CHARS}
        log = "\n".join(self.proxy.stderr[self._log_from :])
        answers = b"\n".join(reply.answer.body for reply in self.replies + self.canary_replies).decode()
        for where, text in (("the log", log), ("an answer", answers)):
            assert "Traceback" not in text, f"a traceback in {where}: {text[text.index('Traceback') :][:2000]}"
            runs = re.findall(rf"[\w-]{{{_TOKEN_CHARS},}}", text)
            ends = (run[at : at + _TOKEN_CHARS] for run in runs for at in range(len(run) - _TOKEN_CHARS + 1))
            assert not tokens.intersection(ends), f"a token in {where}"

    def _log_lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.proxy.stderr[self._log_from :]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]
