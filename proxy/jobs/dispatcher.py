"""From an admitted request to a remembered outcome: admission, the runner, the store, draining.

A job belongs to the front end, not to the connection it came from: it runs in its own task, so it continues if the
client disconnects. Whatever happens, each job gets exactly one outcome and frees its place.

The path of a job, from the request to the answer::

    api/clients/post_job        reads the request: who asks, the key, how long to wait (request_headers), and the body
      jobs/entrance             what was sent becomes a request for a job, as the profile says (job_server); that is a
                                new job, or the one that its key has already (keys), here or at another instance
        jobs/dispatcher         may it be taken (headroom)? in_flight knows it from now on
          workers/local_runner  the `Runner`: waits for a worker (pool)
            jobs/recorder       SUBMITTING is recorded (store/...) before the worker hears of the job
            workers/worker      Assign, through the worker's inbox (shared/messages)
              worker/main       in the worker: takes it from its inbox (pipes),
              worker/job_client submits it (exchange, connection) and reads the reply; main waits on its inbox
    api/callbacks               meanwhile, in the front end: reads the callback, once
      jobs/callback_intake      the recorder records it; the `Delivery` (in_flight) finds who runs the job
          workers/local_runner  tells the worker, which says that it is done
        jobs/elsewhere          or another instance records it: then this one hears of it, or finds it in the store
        jobs/dispatcher         the outcome is what was recorded; observe/observers hear of it
    api/clients/answers         the outcome becomes the answer
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import BY_CLIENT, Job, new_id, new_token, token_hash
from proxy.jobs.left_open import LeftOpen, adopt, never_submitted
from proxy.jobs.pause import Pause
from proxy.jobs.recorder import Recorder
from proxy.jobs.trail import trail_of
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, StoreUnavailableError
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from proxy.jobs.elsewhere import Elsewhere
    from proxy.jobs.entrance import JobRequest
    from proxy.jobs.headroom import Headroom
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job_server import ServedJobServers
    from proxy.jobs.polling import Poller
    from proxy.jobs.runner import Runner
    from proxy.jobs.shown_bodies import ShownBodies
    from proxy.store.protocol import JobStore

__all__ = ["Dispatcher", "Observer"]

T = TypeVar("T")

#: When to try again while the intake is paused: a person ends that, and nobody knows when.
_PAUSE_S: Final = 30


class Observer(Protocol):
    """Is notified about jobs. Nothing that it does can affect them."""

    def job_began(self, job: Job) -> None:
        """Called for an accepted job, before anything is done with it."""

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        """Called for a finished job."""


class Dispatcher:
    """Accepts jobs and manages them until their end."""

    def __init__(  # noqa: PLR0913 - the parts that it brings together
        self,
        *,
        runner: Runner,
        store: JobStore,
        in_flight: InFlight,
        job_servers: ServedJobServers,
        headroom: Headroom,
        observer: Observer,
        poller: Poller,
        elsewhere: Elsewhere,
        callback_counts: Counter[str],
        bodies: ShownBodies | None,
        max_jobs: int,
        job_timeout_s: float,
    ) -> None:
        """`callback_counts`: how many callbacks had which fate; those that never came are counted here.

        `bodies`: selects the part of clients' bodies that is recorded; None: nothing is.
        """
        self._runner = runner
        self._store = store
        self._in_flight = in_flight
        self._job_servers = job_servers
        self._headroom = headroom
        self._observer = observer
        self._poller = poller
        self._elsewhere = elsewhere
        self._callback_counts = callback_counts
        self._bodies = bodies
        self._max_jobs = max_jobs
        self._job_timeout_s = job_timeout_s
        self._left_open = LeftOpen()
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Jobs that are claiming their keys: they are in flight soon.
        self._claiming = 0
        self.draining = False
        #: Whether operators have paused the intake.
        self.pause = Pause()
        #: Called with the record of a job that passed its deadline though the job server has announced its outcome.
        self.on_announced: Callable[[Record], None] = lambda _record: None
        #: Jobs taken over from instances that are gone.
        self.taken_over = 0

    def check_admission(self) -> None:
        """Raise AdmissionError if a job would not be accepted now."""
        if self.draining:
            raise AdmissionError(Code.SHUTTING_DOWN, "the proxy is shutting down and accepts no new jobs")
        if self.pause.since is not None:
            paused = "an operator has paused the intake of new jobs"
            raise AdmissionError(Code.INTAKE_PAUSED, paused, retry_after_s=_PAUSE_S)
        if self._free_places() <= 0:
            raise AdmissionError(Code.OVERLOADED, f"{self._max_jobs} jobs are in flight, which is the limit")
        if self._store.trouble:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, self._store.trouble)
        shortage = self._headroom.shortage()
        if shortage:
            raise AdmissionError(Code.OVERLOADED, f"the machine is short of {shortage}")

    def check_descriptors(self) -> None:
        """Raise AdmissionError if requests that may hold a connection for long are refused now."""
        if not self._headroom.has_descriptors():
            raise AdmissionError(Code.OVERLOADED, "the machine is short of file descriptors")

    def room(self) -> int:
        """Return how many jobs would be accepted now."""
        try:
            self.check_admission()
        except AdmissionError:
            return 0
        return self._free_places()

    def _free_places(self) -> int:
        """Return how many more jobs may be in flight.

        Jobs that were left open have no worker, and hold no place: otherwise, an instance that takes over the jobs of
        another one would refuse its own clients' until those deadlines.
        """
        return self._max_jobs - self._in_flight.with_workers() - self._claiming

    def submit(self, request: JobRequest, fingerprint: bytes = b"") -> Job:
        """Admit a job and start it; its outcome is `job.outcome`. `fingerprint`: the hash of the body of its key.

        Raises:
            AdmissionError: it is not accepted; nothing was started.
        """
        self.check_admission()
        job = self._new_job(request, fingerprint)
        self._begin(job)
        return job

    async def submit_under_key(self, request: JobRequest, fingerprint: bytes) -> Job:
        """Like `submit`. If there may be other instances, the job is recorded with its key before it is started.

        Raises:
            AdmissionError: it is not accepted; nothing was started.
            TakenError: another instance has already begun a job with this key.
            StoreUnavailableError: that cannot be determined now; nothing was started.
        """
        if not self._elsewhere.instance:
            return self.submit(request, fingerprint)
        self.check_admission()
        job = self._new_job(request, fingerprint)
        return await asyncio.shield(self._run(self._claim(job)))  # an abandoned request leaves no key behind

    async def _claim(self, job: Job) -> Job:
        self._claiming += 1
        try:
            await job.recorder.claim()
        except StoreUnavailableError as exc:
            # It may still be on record, and its key would then belong to a job that nobody runs.
            await _recorded_end(job, job.failure(Code.JOURNAL_UNAVAILABLE, str(exc)))
            raise
        finally:
            self._claiming -= 1
        self._begin(job)
        return job

    def _begin(self, job: Job) -> None:
        self._observer.job_began(job)
        self._start(job, self._runner)

    def _new_job(self, request: JobRequest, fingerprint: bytes) -> Job:
        token, now = new_token(), time.time()
        record = Record(
            id=new_id(request.beginning),
            token_hash=token_hash(token),
            key=request.key,
            fingerprint=fingerprint,
            accepted_at=now,
            deadline_at=now + self._job_timeout_s,
            profile=request.profile,
            labels=request.labels,
            outputs={"path": request.path} if request.path else {},
            owner=self._elsewhere.instance,
            origin=self._elsewhere.instance,
            instance=self._elsewhere.name,
            sent=self._bodies.recorded(request.body, request.content_type) if self._bodies is not None else None,
        )
        return Job(
            body=request.body,
            content_type=request.content_type,
            query=request.query,
            deadline=time.monotonic() + self._job_timeout_s,
            recorder=Recorder(self._store, record),
            token=token,
            traceparent=request.traceparent,
            tracestate=request.tracestate,
        )

    async def restore(self) -> None:
        """Take over the jobs that an earlier front end left open. To be called before anything is served."""
        open_jobs = await self._store.unfinished()
        never = [Recorder(self._store, one, stored=True) for one in open_jobs if one.state is State.ACCEPTED]
        await asyncio.gather(*(recorder.finished(never_submitted()) for recorder in never))
        if open_jobs:
            log.event("warning", "open jobs of an earlier run were found", **self._wait_for(open_jobs))

    def take_over(self, records: Sequence[Record]) -> None:
        """Take over jobs whose instance is gone. The store has ended those that certainly were not submitted."""
        for record in records:
            job = self._in_flight.by_id(record.id)
            if job is not None:  # it was started here, and another instance took it over
                job.hear(record)
        self.taken_over += len(records)
        log.event("warning", "jobs of an instance that is gone were taken over", **self._wait_for(records))

    def _wait_for(self, records: Sequence[Record]) -> dict[str, Any]:
        """Wait for those of these jobs that may have been submitted; return what the log says of all of them."""
        waiting = [record for record in records if record.state in {State.SUBMITTING, State.WAITING}]
        for record in waiting:
            if self._in_flight.by_id(record.id) is None:
                self._start(adopt(self._store, record), self._left_open)
        found: dict[str, Any] = {
            "never_submitted": len(records) - len(waiting),
            "waiting_for_callbacks": len(waiting),
        }
        gone = sorted({record.profile for record in records if self._job_servers.of(record) is None})
        if gone:  # nobody can be asked about these jobs here
            found["profiles_not_served"] = gone
        return found

    def give_up(self, records: Sequence[Record]) -> None:
        """Cancel jobs at the job server that have ended without their instances (`Peers.watch`)."""
        for record in records:
            job = adopt(self._store, record)
            if self._poller.can_cancel(job):
                self._run(self._poller.cancel(job))

    def cancel(self, job_id: str, *, by: str = BY_CLIENT) -> Job | None:
        """Cancel a job in flight and return it, if there is one; it is over once it has its outcome. `by`: who.

        If the job server is just replying to the submission, the job is cancelled after that: then it has a name there.
        """
        job = self._in_flight.by_id(job_id)
        if job is not None and self._poller.awaits_name(job):
            self._run(self._cancel_named(job, by))
        elif job is not None:
            self._cancel(job, by)
        return job

    async def _cancel_named(self, job: Job, by: str) -> None:
        await self._poller.name_of(job)
        self._cancel(job, by)

    def _cancel(self, job: Job, by: str) -> None:
        if not job.cancelled.done():
            job.is_cancellable = self._poller.can_cancel(job)
            job.cancelled.set_result(by)

    async def drain(self) -> None:
        """Accept no more jobs, wait until those in flight have their outcome, then for no others."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._elsewhere.leave()

    def _start(self, job: Job, runner: Runner) -> None:
        self._in_flight.add(job)
        self._run(self._see_through(job, runner))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _see_through(self, job: Job, runner: Runner) -> None:
        outcome: Outcome = Failed(code=Code.INTERNAL_ERROR, detail="the proxy failed", submitted=Submitted.UNKNOWN)
        following = [self._run(self._follow(job, follower.follow)) for follower in self._followers(job)]
        try:
            try:
                outcome = await runner.run(job)
            except TakenError as exc:
                outcome = await self._fenced(job, exc.record)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave a client without an answer
            log_lines.job_event("error", "unhandled exception in a job", job, **log.exception_fields(exc))
        finally:
            if job.state is not State.FINISHED:  # otherwise the runner has set it, which it must not
                job.advance(Event.FINISH)
            try:
                outcome = await self._record_end(job, outcome)
            finally:
                # Only now: a request for the job finds it here or in the store.
                self._in_flight.remove(job)
                if not job.callback.done() and isinstance(outcome, Failed) and outcome.submitted is not Submitted.NO:
                    self._callback_counts[CallbackFate.NEVER] += 1
                job.outcome.set_result(outcome)
                self._observer.job_finished(job, outcome)
                for task in following:
                    task.cancel()
                if _is_given_up(job, outcome):
                    self._give_up(job)

    def _give_up(self, job: Job) -> None:
        if self._poller.has_cancel(job):
            self._run(self._poller.cancel(job))
        if job.notifications and not job.cancelled.done():
            self.on_announced(job.recorder.record)

    def _followers(self, job: Job) -> list[Poller | Elsewhere]:
        """Return the objects that watch for the job's end in addition to its runner."""
        server = self._job_servers.of(job)
        followers: list[Poller | Elsewhere] = [self._poller] if server is not None and server.can_be_asked else []
        return [*followers, self._elsewhere] if self._elsewhere.instance else followers

    async def _follow(self, job: Job, follow: Callable[[Job], Awaitable[None]]) -> None:
        try:
            await follow(job)
        except Exception as exc:  # noqa: BLE001 - the callback may still come
            log_lines.job_event("error", "a job could not be followed", job, **log.exception_fields(exc))

    async def _fenced(self, job: Job, held: Record) -> Outcome:
        """Return the outcome of a job that was not submitted here, and must not be, because `held` says otherwise."""
        self._elsewhere.note_fenced(job, held)
        if held.id != job.id:
            return job.failure(Code.INTERRUPTED, "another instance has started a job with its key")
        job.hear(held)
        return await self._left_open.run(job)

    async def _record_end(self, job: Job, outcome: Outcome) -> Outcome:
        """Record how a job ended; return what its client is told."""
        was_taken = job.recorder.is_taken
        try:
            return await _recorded_end(job, outcome)
        except TakenError as exc:
            held = exc.record
        if not was_taken:
            self._elsewhere.note_fenced(job, held)
        if held.id != job.id:  # it only has the key: its outcome is not this client's
            return outcome
        if isinstance(outcome, Failed):
            try:
                return await self._elsewhere.settle(job, held, outcome)
            except StoreUnavailableError as exc:
                log_lines.job_event("warning", "the recorded outcome of a job cannot be read", job, reason=str(exc))
        return held.outcome or outcome


def _is_given_up(job: Job, outcome: Outcome) -> bool:
    """Return whether the job may be running at the job server while nobody waits for it, and nobody else cancels it."""
    if job.recorder.called_back or job.recorder.is_owned_elsewhere:
        return False
    codes = {Code.CANCELLED, Code.DEADLINE_EXCEEDED}
    if job.adopted:  # at its deadline; a job that was submitted here is interrupted where another instance has it
        codes.add(Code.INTERRUPTED)
    return isinstance(outcome, Failed) and outcome.code in codes and outcome.submitted is not Submitted.NO


async def _recorded_end(job: Job, outcome: Outcome) -> Outcome:
    try:
        by = job.cancelled.result() if job.cancelled.done() else ""
        is_recorded = job.recorder.called_back and isinstance(outcome, Succeeded)  # with the callback
        trail = "" if is_recorded else trail_of(job)
        return await job.recorder.finished(outcome, trail=trail, cancelled_by=by)
    except TakenError:
        raise
    except Exception as exc:  # noqa: BLE001 - as above: whatever it is, the client gets its answer
        log_lines.job_event("error", "the outcome of a job could not be recorded", job, **log.exception_fields(exc))
        return outcome
