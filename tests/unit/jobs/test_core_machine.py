"""Random sequences of events for the core: instances that share a store, clients, a job server, time.

Instances are killed, paused and cut off from the store; its answers and the notices between instances are lost. Any
instance may be declared dead at any time, because a lease decides only how soon that happens, not whether it is right.

Invariants:

1. At each instance that has a job, the job has exactly one outcome, and then does not count as in flight any more.
2. No client gets `submitted: no` of a job whose submission was sent, or will be, and was not refused; nor of a job that
   has called back.
3. A callback that was answered as recorded stays in the store, and is the job's outcome.
4. At all instances, no job is run twice with one key, unless the earlier one certainly was not submitted.
5. Every client is answered.
6. The record is what the clients got; or it is a late result, together with what they got. A client of an instance that
   was paused, cut off or declared dead may have got another answer that is true.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import Verdict
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome
from tests.support.instances import FAILED, PROGRESS, SUCCEEDED, Cluster, Instance
from tests.support.jumping_loop import JumpingLoop, nothing_moves, time_passes
from tests.support.runners import SUBMIT, Order, Step

T = TypeVar("T")

#: The next steps that a runner may take in this state.
STEPS: Final = {
    State.ACCEPTED: (Step.QUEUE, Step.ASSIGN),
    State.ASSIGNED: (Step.CONNECT,),
    State.SUBMITTING: (Step.REPLY, Step.REFUSE),
    State.WAITING: (Step.CONNECT,),
}
FINAL: Final = {CallbackFate.ACCEPTED, CallbackFate.LATE, CallbackFate.DUPLICATE}
NUMBERS: Final = st.integers(0, 5)


@dataclass(eq=False)
class Seen:
    """A job, as seen from outside."""

    job: Job
    #: Where it was begun, and with which key; it runs there unless that instance is dead.
    at: Instance
    #: The outcomes that clients got, and where.
    told: list[tuple[Instance, Outcome]] = field(default_factory=list)
    #: The answers to final callbacks.
    fates: Counter[CallbackFate] = field(default_factory=Counter)
    #: The recorded callback, once there is one.
    callback: bytes | None = None

    @property
    def token_left(self) -> bool:
        """Whether the job server may know the callback URL."""
        return any(event is Event.CONNECTED for _, event in self.job.life)

    @property
    def may_run(self) -> bool:
        """Whether a submission was sent and not refused."""
        events = Counter(event for _, event in self.job.life)
        return events[Event.CONNECTED] > events[Event.REFUSED]

    @property
    def ending(self) -> tuple[bytes, Verdict]:
        """The job server's final callback; every time the same."""
        return b'{"id": "%s"}' % self.job.id.encode(), FAILED if self.job.body == b"bad" else SUCCEEDED


class Core(RuleBasedStateMachine):
    """Up to three instances; at each of them the store may fail or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        #: Clients and callback senders that wait for an answer.
        self.tasks: dict[asyncio.Task[None], Instance] = {}
        self.cluster = self.run(self.a_cluster())
        self.jobs: list[Seen] = []
        #: The jobs that were begun with each key, in order.
        self.by_key: dict[str, list[Seen]] = defaultdict(list)
        self.dead: list[Instance] = []
        #: The instances that were ever cut off from the store, or declared dead.
        self.disturbed: set[Instance] = set()

    async def a_cluster(self) -> Cluster:
        """Return three instances."""
        return Cluster(3)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine until it ends, and everything else that can run without the passing of time."""

        async def all_of_it() -> T:
            result = await coroutine
            await nothing_moves()
            return result

        result = self.loop.run_until_complete(all_of_it())
        for task in [task for task in self.tasks if task.done()]:
            del self.tasks[task]
            task.result()
        return result

    def start(self, at: Instance, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start something at an instance that may hang together with the store."""

        async def begin() -> None:
            self.tasks[asyncio.create_task(coroutine)] = at

        self.run(begin())

    def instance(self, number: int) -> Instance:
        """Return a live instance."""
        return self.cluster.instances[number % len(self.cluster.instances)]

    def seen(self, number: int) -> Seen:
        """Return one of the newest jobs."""
        return self.jobs[-1 - number % len(self.jobs)]

    def alive(self, number: int) -> Seen | None:
        """Return one of the newest jobs if the instance that began it still runs it."""
        seen = self.seen(number)
        return seen if seen.at not in self.dead and seen.job in seen.at.in_flight else None

    @property
    def queueing(self) -> list[Seen]:
        """The new jobs at the instances that began them; the newest first."""
        alive = (seen for seen in self.jobs if seen.at not in self.dead and seen.job in seen.at.in_flight)
        return [seen for seen in alive if seen.job.state is State.ACCEPTED][::-1]

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(at=NUMBERS, body=st.sampled_from([b"good", b"bad"]))
    def a_job_is_submitted(self, at: int, body: bytes) -> None:
        """Without a key, at any instance."""
        self.start(self.instance(at), self.post(self.instance(at), body, None))

    @rule(at=NUMBERS, key=st.sampled_from("ab"), body=st.sampled_from([b"good", b"good", b"good", b"bad"]))
    def a_job_is_submitted_or_joined(self, at: int, key: str, body: bytes) -> None:
        """With a key, at any instance."""
        self.start(self.instance(at), self.post(self.instance(at), body, key))

    @rule(key=st.sampled_from("ab"))
    def a_job_is_submitted_or_joined_everywhere(self, key: str) -> None:
        """At all instances at once."""
        for at in list(self.cluster.instances):
            self.start(at, self.post(at, b"good", key))

    async def post(self, at: Instance, body: bytes, key: str | None) -> None:
        """Submit or join, and wait for the outcome."""
        try:
            found, joined = await at.join(body, key)
        except (AdmissionError, RequestError, StoreUnavailableError):
            return
        if isinstance(found, Job) and not joined:
            seen = Seen(found, at)
            if key is not None:
                self.by_key[key].append(seen)
            self.jobs.append(seen)
        try:
            outcome = await self.outcome_at(at, found)
        except StoreUnavailableError:
            return
        if at not in self.dead:
            for seen in self.jobs:
                if seen.job.id == found.id:
                    seen.told.append((at, outcome))
                    # It may be submitted later, since some job servers call back about jobs that they have refused.
                    is_no = isinstance(outcome, Failed) and outcome.submitted is Submitted.NO
                    assert at in self.disturbed or not (is_no and seen.fates)

    async def outcome_at(self, at: Instance, found: Job | Record) -> Outcome:
        """Wait for the outcome of a submitted or joined job."""
        if isinstance(found, Job):
            return await asyncio.shield(found.outcome)
        record = await at.elsewhere.end_of(found, None)
        assert record.outcome is not None
        return record.outcome

    @precondition(lambda self: self.jobs)
    @rule(job=NUMBERS, at=NUMBERS)
    def a_job_is_cancelled(self, job: int, at: int) -> None:
        """Wherever it runs."""
        self.start(self.instance(at), self.cancel(self.instance(at), self.seen(job)))

    async def cancel(self, at: Instance, seen: Seen) -> None:
        """Cancel a job, here or by the store."""
        if at.dispatcher.cancel(seen.job.id) is None:
            with contextlib.suppress(StoreUnavailableError):
                record = await at.store.by_id(seen.job.id)
                if record is not None:
                    held = await at.elsewhere.cancel(record, by="its client")
                    assert held.outcome is not None

    # --- runners -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(job=NUMBERS, choice=st.integers(0, 1), count=st.integers(1, 4))
    def a_runner_goes_on(self, job: int, choice: int, count: int) -> None:
        """By some steps."""
        for _ in range(count):
            seen = self.alive(job)
            if seen is not None and seen.job.state in STEPS:
                steps = STEPS[seen.job.state]
                step = steps[choice % len(steps)]
                # A submission may be sent only after it was recorded that it may have been; the runner waits for that.
                before = (Step.RECORD,) if step is Step.CONNECT else ()
                self.run(self.tell(seen, *before, step))

    @precondition(lambda self: self.queueing)
    @rule(job=NUMBERS)
    def a_runner_gets_a_job_through(self, job: int) -> None:
        """As far as possible."""
        self.run(self.tell(self.queueing[job % len(self.queueing)], *SUBMIT))

    @precondition(lambda self: self.jobs)
    @rule(job=NUMBERS, code=st.sampled_from([Code.WORKER_DIED, Code.JOB_REJECTED, Code.JOB_SERVER_UNAVAILABLE]))
    def a_runner_gives_up(self, job: int, code: Code) -> None:
        """With what it knows."""
        seen = self.alive(job)
        if seen is not None:
            self.run(self.tell(seen, code))

    @precondition(lambda self: self.jobs)
    @rule(job=NUMBERS)
    def a_runner_breaks(self, job: int) -> None:
        """By a bug."""
        seen = self.alive(job)
        if seen is not None:
            self.run(self.tell(seen, ZeroDivisionError()))

    async def tell(self, seen: Seen, *orders: Order) -> None:
        """Order steps of a runner."""
        seen.at.stepped.tell(seen.job, *orders)

    # --- the job server ----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(seen.token_left for seen in self.jobs))
    @rule(job=NUMBERS, at=NUMBERS, times=st.integers(1, 2))
    def a_job_is_over(self, job: int, at: int, times: int) -> None:
        """The job server reports it, to any instance, and perhaps twice."""
        called = [seen for seen in self.jobs if seen.token_left]
        seen = called[-1 - job % len(called)]
        for number in range(times):
            where = self.instance(at + number)
            self.start(where, self.call(where, seen, *seen.ending))

    @precondition(lambda self: any(seen.token_left for seen in self.jobs))
    @rule(job=NUMBERS, at=NUMBERS)
    def a_job_makes_progress(self, job: int, at: int) -> None:
        """According to the job server."""
        called = [seen for seen in self.jobs if seen.token_left]
        where = self.instance(at)
        self.start(where, self.call(where, called[-1 - job % len(called)], b"{}", PROGRESS))

    async def call(self, at: Instance, seen: Seen, body: bytes, verdict: Verdict) -> None:
        """Call back, and note the answer."""
        try:
            fate = await at.call_back(seen.job, body, verdict)
        except StoreUnavailableError:
            return
        if at not in self.dead and fate in FINAL:
            seen.fates[fate] += 1

    # --- the world ---------------------------------------------------------------------------------------------------

    @rule(at=NUMBERS, failing=st.booleans())
    def a_store_fails_or_recovers(self, at: int, *, failing: bool) -> None:
        """For one instance."""
        self.run(self.set_store(self.instance(at), "failing", on=failing))

    @rule(at=NUMBERS, hanging=st.booleans())
    def a_store_hangs_or_goes_on(self, at: int, *, hanging: bool) -> None:
        """For one instance."""
        self.run(self.set_store(self.instance(at), "hanging", on=hanging))

    async def set_store(self, at: Instance, name: str, *, on: bool) -> None:
        """Set the state of a store."""
        setattr(at.store, name, on)
        self.disturbed.add(at)

    @rule(at=NUMBERS)
    def an_instance_is_paused(self, at: int) -> None:
        """It can neither reach the store nor be reached."""
        self.disturbed.add(self.instance(at))
        self.run(self.call_cluster("pause", self.instance(at)))

    @rule(at=NUMBERS)
    def an_instance_wakes_up(self, at: int) -> None:
        """And continues with what it was about to do."""
        self.run(self.call_cluster("wake", self.instance(at)))

    @rule(at=NUMBERS, lost=st.booleans())
    def a_store_loses_its_answers(self, at: int, *, lost: bool) -> None:
        """It records what it gets, but the callers do not learn that."""
        self.run(self.set_store(self.instance(at), "loses_answers", on=lost))

    @rule(deaf=st.booleans())
    def what_instances_tell_one_another_is_lost(self, *, deaf: bool) -> None:
        """Or is delivered again."""
        self.cluster.store.deaf = deaf

    @rule(heir=NUMBERS, gone=NUMBERS)
    def an_instance_is_taken_for_dead(self, heir: int, gone: int) -> None:
        """Whether or not it is dead."""
        others = [*self.dead, *self.cluster.instances]
        taken = others[gone % len(others)]
        if taken is not self.instance(heir):
            self.disturbed.add(taken)
            self.run(self.call_cluster("take_over", self.instance(heir), taken))

    @precondition(lambda self: self.queueing and len(self.cluster.instances) > 1)
    @rule(job=NUMBERS, heir=NUMBERS, before=st.integers(0, 4), key=st.sampled_from("ab"))
    def an_instance_sleeps_through_its_lease(self, job: int, heir: int, before: int, key: str) -> None:
        """In the middle of a job, whose client retries elsewhere; then it continues as if nothing had happened."""
        seen = self.queueing[job % len(self.queueing)]
        others = [instance for instance in self.cluster.instances if instance is not seen.at]
        self.run(self.tell(seen, *SUBMIT[:before]))
        self.disturbed.add(seen.at)
        self.run(self.call_cluster("pause", seen.at))
        self.run(self.tell(seen, *SUBMIT[before:]))
        self.run(self.call_cluster("take_over", others[heir % len(others)], seen.at))
        self.start(others[0], self.post(others[0], b"good", key))
        again = self.alive(0)
        if again is not None and again.at is others[0]:
            self.run(self.tell(again, *SUBMIT))
        self.run(self.call_cluster("wake", seen.at))

    @rule()
    def what_is_overdue_is_ended(self) -> None:
        """By any instance."""
        self.cluster.store.end_overdue()

    async def call_cluster(self, name: str, *instances: Instance) -> None:
        """Let something happen to instances."""
        getattr(self.cluster, name)(*instances)

    @rule(seconds=st.sampled_from([0.2, 0.5, 1.1, 10.0, 31.0]))
    def time_goes_by(self, seconds: float) -> None:
        """Timeouts and deadlines pass."""
        self.run(time_passes(seconds))

    @precondition(lambda self: not self.dead)
    @rule(at=NUMBERS)
    def an_instance_is_killed(self, at: int) -> None:
        """No instance has noticed yet."""
        killed = self.instance(at)
        self.dead.append(killed)
        self.run(self.call_cluster("kill", killed))

    @precondition(lambda self: len(self.cluster.instances) < 3)
    @rule()
    def an_instance_is_started(self) -> None:
        """It knows nothing of the past."""
        self.run(self.call_cluster("add"))

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def each_job_has_one_outcome(self) -> None:
        """And is in flight as long as it has none.

        An instance that had lost a job to another one, and takes it over in its turn, has another `Job` for it.
        """
        for instance in self.cluster.instances:
            finished = Counter(id(job) for job, _ in instance.notes.finished)
            assert not finished or max(finished.values()) == 1
            assert all(job.outcome.done() and job not in instance.in_flight for job, _ in instance.notes.finished)
            assert not any(job.outcome.done() for job in instance.in_flight)

    @invariant()
    def each_key_has_one_job_that_runs(self) -> None:
        """At most one."""
        for seen in self.by_key.values():
            assert sum(each.may_run for each in seen) <= 1, "run twice under one key"

    @invariant()
    def nobody_who_looks_reads_no_of_a_job_that_may_run(self) -> None:
        """Neither in flight nor in the store, even if the job's instance is dead."""
        for seen in self.jobs:
            record = self.on_record(seen)
            if seen.may_run:
                assert record is not None
                assert record.submitted is not Submitted.NO
                assert seen.job not in seen.at.in_flight or seen.job.submitted is not Submitted.NO

    @invariant()
    def a_callback_that_is_on_record_stays(self) -> None:
        """And there is one if any answer said so; it proves that the job was submitted."""
        for seen in self.jobs:
            record = self.on_record(seen)
            callback = record.callback if record is not None else None
            assert seen.callback in {None, callback}
            seen.callback = callback
            if seen.fates:
                assert callback == seen.ending[0]
                assert record is not None
                assert record.submitted is Submitted.YES

    def on_record(self, seen: Seen) -> Record | None:
        """Return the record of a job in the shared store."""
        return self.run(self.cluster.store.by_id(seen.job.id))

    def teardown(self) -> None:
        """Let everything recover and end; then check that the records are what clients got."""
        try:
            self.run(self.recover())
            assert all(at in self.dead for at in self.tasks.values()), "a client was left without an answer"
            for seen in self.jobs:
                self.hold_the_end(seen, self.on_record(seen))
        finally:
            self.loop.run_until_complete(self.end())
            self.loop.close()

    async def recover(self) -> None:
        """Let everything alive finish."""
        self.cluster.store.deaf = False
        for instance in self.cluster.instances:
            self.cluster.wake(instance)
            instance.store.failing = instance.store.loses_answers = False
        self.cluster.take_over(self.cluster.instances[0], *self.dead)
        await time_passes(100)
        self.cluster.store.end_overdue()
        for instance in self.cluster.instances:
            await instance.dispatcher.drain()
        await time_passes(10)

    def hold_the_end(self, seen: Seen, record: Record | None) -> None:
        """Compare the record of a job with the answers about it."""
        if record is None:  # its instance died before anything was recorded, so nothing was submitted
            assert seen.at in self.dead
            assert not seen.token_left
            return
        assert record.state is State.FINISHED
        assert record.outcome is not None
        for at, outcome in seen.told:
            recorded = record.failure
            if recorded is not None and recorded.submitted is Submitted.YES and isinstance(outcome, Failed):
                recorded = replace(recorded, submitted=outcome.submitted)  # a callback may have proven it since
            assert at in self.disturbed or at in self.dead or outcome in (record.outcome, recorded)
            if isinstance(outcome, Failed) and outcome.submitted is Submitted.NO:
                assert not seen.may_run

    async def end(self) -> None:
        """Clean up, including dead instances."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for _ in range(2):
            for task in tasks:
                task.cancel()
            await nothing_moves()
        await asyncio.gather(*tasks, return_exceptions=True)


TestCore = Core.TestCase
TestCore.settings = settings(max_examples=60, stateful_step_count=30)
