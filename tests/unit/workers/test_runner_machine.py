"""Random sequences of events for jobs in workers that submit, retry, report and die, and a job server that may lie.

Invariants:

1. Each job has one outcome, shortly after its deadline at the latest, and it is recorded.
2. No submission follows one that was not refused, nor any callback that has come.
3. No job whose submission was sent and not refused ends with `no`; none that has called back ends with less than `yes`.
4. A job whose callback was accepted before its end ends with it, unless its worker died, it was cancelled, or its
   deadline passed.
5. Each worker is given back once; and in the end no job, call or worker is left.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from proxy import log
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.workers.local_asker import LocalAsker
from proxy.workers.local_runner import LocalRunner
from proxy.workers.pool import Pool
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import Verdict
from shared.lifecycle import Event, State, Submitted
from shared.messages import (
    Answered,
    Ask,
    Assign,
    Callback,
    Failure,
    FromWorker,
    MayRetry,
    Progress,
    Retry,
    Told,
    ToWorker,
)
from shared.outcome import Failed
from tests.support.instances import FAILED, PROGRESS, SUCCEEDED, Instance
from tests.support.jumping_loop import JumpingLoop, time_passes

TIMEOUT_S: Final = 10.0
#: How long after its deadline a job may end: a worker is killed, and the store is waited for.
LATE_S: Final = 1.2
CALLBACKS: Final = (SUCCEEDED, SUCCEEDED, FAILED, PROGRESS, PROGRESS, None)
#: What may become of a submission; "runs": the job server starts the job, whatever it replies.
SUBMISSIONS: Final = (
    *("ok",) * 3, *("refused",) * 2, *("refused, runs",) * 3, "no connection",
    "error", "error, runs", "lost", "lost, runs", "hangs", "hangs, runs",
)  # fmt: skip
#: The reasons why a job may end without a callback that was accepted.
EXCUSES: Final = {Code.WORKER_DIED, Code.CANCELLED, Code.DEADLINE_EXCEEDED}


class Seen:
    """A job, as seen from outside."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sent: list[str] = []
        #: When a callback was accepted, and when the job had its outcome.
        self.accepted_at = self.ended_at = math.inf
        #: Whether the job has called back, and whether it had by its end.
        self.called_back = self.had_called_back = False
        job.outcome.add_done_callback(self._end)

    def _end(self, _: asyncio.Future[Any]) -> None:
        self.ended_at = asyncio.get_running_loop().time()
        self.had_called_back = self.called_back


class FakeWorker:
    """Does what a worker does, at random speed; its messages are read later, but before its death is noticed."""

    end = "SIGKILL"
    broken = False
    has_unread = False

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.started += 1
        self.pid = stage.started
        self.handler: Any = None
        self.gone = self.dead = False
        self.is_taken = False
        self._unread: list[FromWorker] = []
        self._tasks: list[asyncio.Future[Any]] = []
        self._job_id = ""
        self._callback: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._permit: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, message: ToWorker) -> None:
        """Take a message."""
        if self.dead:
            return
        if isinstance(message, Assign | Retry):
            assert self.stage.jobs[message.job_id].job.submitted is not Submitted.YES
        match message:
            case Assign():
                self._job_id = message.job_id
                self._callback = asyncio.get_running_loop().create_future()
                self._tasks = [asyncio.ensure_future(self._serve(self.stage.jobs[message.job_id]))]
            case Ask():
                self._tasks.append(asyncio.ensure_future(self._ask(message)))
            case Retry():
                self._permit.set_result(None)
            case Callback() if message.job_id == self._job_id and not self._callback.done():
                self._callback.set_result(None)

    def die(self) -> None:
        """End; that is noticed a little later."""
        if not self.dead:
            self.dead = True
            for task in self._tasks:
                task.cancel()
            self.stage.later((0, 0.001, 0.25), self._be_gone)

    def _be_gone(self) -> None:
        self._be_read()
        self.gone = True
        self.stage.workers.discard(self)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.on_death("it was killed by SIGKILL")

    def _tell(self, message: FromWorker) -> None:
        self._unread.append(message)
        self.stage.later((0, 0, 0.001, 0.02), self._be_read)

    def _be_read(self) -> None:
        unread, self._unread = self._unread, []
        for message in unread:
            if self.handler is not None and message.job_id == self.handler.job_id:
                self.handler.on_message(message)

    async def _serve(self, seen: Seen) -> None:
        job_id, callback = seen.job.id, self._callback
        submission = asyncio.ensure_future(self._submit(seen))
        self._tasks.append(submission)
        await asyncio.wait((submission, callback), return_when=asyncio.FIRST_COMPLETED)
        if not submission.done():
            submission.cancel()
        elif submission.result() != "ok":
            await asyncio.wait((callback,), timeout=self.stage.chance.choice((0, 0.5)))
            if not callback.done():
                self._tell(Failure(job_id=job_id, code=Code.JOB_REJECTED, detail="no"))
                return
        elif not callback.done():
            self._tell(Progress(job_id=job_id, event=Event.REPLY_READ, outputs={"id": "1"}))
        await callback
        self._tell(Answered(job_id=job_id))

    async def _submit(self, seen: Seen) -> str:
        stage, job_id = self.stage, seen.job.id
        while True:
            await stage.pause(0, 0.001, 0.05, 1)
            what = stage.chance.choice(SUBMISSIONS)
            if what != "no connection":
                self._tell(Progress(job_id=job_id, event=Event.CONNECTED))
                seen.sent.append(what)
                if what == "ok" or what.endswith("runs"):
                    stage.start(seen)
                await stage.pause(0, 0.001, 0.05, 0.5)
            if what.startswith("hangs"):
                await asyncio.sleep(100)
            if not what.startswith(("refused", "no")):
                return what
            self._tell(Progress(job_id=job_id, event=Event.REFUSED))
            if stage.chance.random() < 0.1:
                return what
            await stage.pause(0, 0.01, 0.3, 1)
            self._permit = asyncio.get_running_loop().create_future()
            self._tell(MayRetry(job_id=job_id))
            await self._permit

    async def _ask(self, ask: Ask) -> None:
        await self.stage.pause(0, 0.01, 0.5, 3, 70)
        kind = self.stage.chance.choice(("succeeded", "failed", "progress", "unavailable"))
        self._tell(Told(job_id=ask.job_id, call=ask.call, kind=kind, state="x", error="", body=b"{}"))


class Stage:
    """A front end's core with a real runner, whose pool this is."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.jobs: dict[str, Seen] = {}
        self.workers: set[FakeWorker] = set()
        self.started = 0
        self.stood_still_s = 0.0
        self.fails = False
        self.runner = LocalRunner(cast("Pool", self), "http://proxy/callback")
        profile = self.chance.choice(("spreedly", "ogc-processes"))
        self.instance = Instance(self.runner, profile=profile, job_timeout_s=TIMEOUT_S)
        self.instance.poller._asker = LocalAsker(cast("Pool", self), self.runner)  # noqa: SLF001 - a worker makes the calls
        self.calls: set[asyncio.Future[None]] = set()
        self._queue: list[asyncio.Future[Any]] = []

    def later(self, delays_s: tuple[float, ...], call: Callable[[], object]) -> None:
        """Call soon, or not so soon."""
        asyncio.get_running_loop().call_later(self.chance.choice(delays_s), call)

    async def pause(self, *delays_s: float) -> None:
        """Wait for one of these times."""
        await asyncio.sleep(self.chance.choice(delays_s))

    # --- the pool ----------------------------------------------------------------------------------------------------

    def request(self) -> asyncio.Future[Any]:
        """Return a ticket for a worker that is started for it."""
        ticket: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(ticket)
        self.later((0, 0.005, 0.1, 2), self._serve)
        return ticket

    def _serve(self) -> None:
        if not self._queue:
            return
        ticket = self._queue.pop(0)
        if ticket.done():
            return
        if self.fails:
            ticket.set_exception(AdmissionError(Code.NO_WORKER, "no process ids"))
            return
        worker = FakeWorker(self)
        worker.is_taken = True
        self.workers.add(worker)
        ticket.set_result(worker)

    def withdraw(self, ticket: asyncio.Future[Any]) -> None:
        """Take a ticket back."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        if not ticket.cancel() and not ticket.cancelled() and ticket.exception() is None:
            self.release(ticket.result(), reusable=False)

    def release(self, worker: FakeWorker, *, reusable: bool) -> None:
        """Take a worker back, which is not used again."""
        del reusable
        assert worker.is_taken
        worker.is_taken, worker.handler = False, None
        worker.die()

    def kill(self, worker: FakeWorker) -> None:
        """Kill a worker."""
        worker.die()

    # --- the job server ----------------------------------------------------------------------------------------------

    def start(self, seen: Seen) -> None:
        """Run a job; its callbacks, if any, come at any time."""
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            call = asyncio.ensure_future(self._call_back(seen, self.chance.choice(CALLBACKS)))
            self.calls.add(call)
            call.add_done_callback(self.calls.discard)

    async def _call_back(self, seen: Seen, verdict: Verdict | None) -> None:
        await self.pause(0, 0.001, 0.01, 0.2, 1, 3, TIMEOUT_S - 0.01, TIMEOUT_S + 0.2)
        seen.called_back |= not seen.job.outcome.done()
        try:
            if verdict is None:
                await self.instance.callback_intake.refuse(seen.job.token_hash, "it is not JSON")
            elif await self.instance.call_back(seen.job, b"{}", verdict) is CallbackFate.ACCEPTED:
                seen.accepted_at = asyncio.get_running_loop().time()
        except (StoreUnavailableError, RequestError):
            pass

    # --- what happens ------------------------------------------------------------------------------------------------

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which nothing of this process runs."""
        self.stood_still_s += seconds
        cast("JumpingLoop", asyncio.get_running_loop()).jump(seconds)

    async def run(self) -> None:
        """Let jobs begin and faults happen; then let everything recover and end."""
        chance, store = self.chance, self.instance.store
        for _ in range(chance.randint(1, 4)):
            job = self.instance.submit()
            self.jobs[job.id] = Seen(job)
        for _ in range(chance.randint(0, 12)):
            await self.pause(0, 0.001, 0.02, 0.3, 1.5)
            match chance.randint(0, 9):
                case 0:
                    store.failing = not store.failing
                case 1:
                    store.hanging = not store.hanging
                case 2:
                    self.fails = not self.fails
                case 3:
                    self.instance.dispatcher.cancel(chance.choice(list(self.jobs)))
                case 4:
                    self.stand_still(chance.choice((0.1, 0.5, 1.5, TIMEOUT_S, 2 * TIMEOUT_S)))
                case _ if self.workers:
                    chance.choice(sorted(self.workers, key=lambda one: one.pid)).die()
        await asyncio.sleep(2)
        self.fails = store.failing = store.hanging = False
        await time_passes(200)

    async def check(self, seen: Seen) -> None:
        """Check what became of a job."""
        job, outcome = seen.job, seen.job.outcome.result()
        assert seen.ended_at < job.deadline + LATE_S + 2 * self.stood_still_s  # once to stand still, once to catch up
        unrefused = [what for what in seen.sent if not what.startswith("refused")]
        assert len(unrefused) <= 1
        if isinstance(outcome, Failed):
            assert outcome.code is not Code.INTERNAL_ERROR
            assert not (outcome.submitted is Submitted.NO and unrefused)
            assert outcome.submitted is Submitted.YES or not seen.had_called_back
            assert seen.accepted_at >= seen.ended_at or outcome.code in {*EXCUSES, Code.JOB_FAILED}
        record = await self.instance.store.by_id(job.id)
        assert record is not None
        assert record.state is State.FINISHED


@pytest.mark.parametrize("first", range(0, 400, 100))
async def test_whatever_happens_to_jobs_and_their_workers(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure names its seed."""
    errors: list[str] = []
    monkeypatch.setattr(log, "event", lambda level, what, **_: errors.append(what) if level == "error" else None)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    for seed in range(first, first + 100):
        random.seed(seed)  # the jitter of polls
        stage = Stage(seed)
        await stage.run()
        try:
            for seen in stage.jobs.values():
                await stage.check(seen)
            assert errors == []
            assert not any(worker.is_taken for worker in stage.workers)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert len(stage.instance.in_flight) == 0
        except AssertionError as exc:
            raise AssertionError(f"with seed {seed}: {errors}") from exc
