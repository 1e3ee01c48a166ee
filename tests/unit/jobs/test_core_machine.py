"""Random sequences of events for the core: instances that share a store, clients, a job server, time.

Instances are killed, paused and cut off from the store; its answers and the notices between instances are lost. Any
instance may be declared dead at any time, because a lease decides only how soon that happens, not whether it is right.

Invariants:

1. Each job has exactly one outcome at each instance that has it, and gives its place back with it.
2. Nobody is told `submitted: no` of a job whose submission has left, or will, and was not refused; nor of one that has
   called back.
3. A callback that was answered as recorded is found in the store for ever, and is the job's outcome.
4. No job is run twice under one key, unless the earlier one certainly was not submitted, at whichever instances.
5. Every client is answered.
6. What is on record is what the clients were told; or it is a late result, and has beside it what they were told. A
   client of an instance that was paused, cut off or taken for dead may have been told something else that is true.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
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

#: What a runner may do next with a job in this state.
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
    """A job as its outside sees it."""

    job: Job
    #: Where it was begun, and by which key; it runs there, unless that instance is dead.
    at: Instance
    #: What clients were told, and where.
    told: list[tuple[Instance, Outcome]] = field(default_factory=list)
    #: What senders of final callbacks were told.
    fates: Counter[CallbackFate] = field(default_factory=Counter)
    #: What is on record of its callback since the first time that there was something.
    callback: bytes | None = None

    @property
    def token_left(self) -> bool:
        """Whether the job server may have been told where to call back."""
        return any(event is Event.CONNECTED for _, event in self.job.life)

    @property
    def may_run(self) -> bool:
        """Whether a submission has left that was not refused."""
        events = Counter(event for _, event in self.job.life)
        return events[Event.CONNECTED] > events[Event.REFUSED]

    @property
    def ending(self) -> tuple[bytes, Verdict]:
        """What the job server says of its end, however often it does."""
        return b'{"id": "%s"}' % self.job.id.encode(), FAILED if self.job.body == b"bad" else SUCCEEDED


class Core(RuleBasedStateMachine):
    """Up to three instances; at each of them the store may fail or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        #: Clients and senders that wait for an answer.
        self.tasks: dict[asyncio.Task[None], Instance] = {}
        self.cluster = self.run(self.a_cluster())
        self.jobs: list[Seen] = []
        #: The jobs that were begun under each key, in order.
        self.by_key: dict[str, list[Seen]] = defaultdict(list)
        self.dead: list[Instance] = []
        #: Those that were ever kept from the store, or taken for dead.
        self.disturbed: set[Instance] = set()

    async def a_cluster(self) -> Cluster:
        """Return three instances."""
        return Cluster(3)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine until it ends, and everything else as far as it goes without the passing of time."""

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
        """Begin something at an instance that may take as long as its store hangs."""

        async def begin() -> None:
            self.tasks[asyncio.create_task(coroutine)] = at

        self.run(begin())

    def instance(self, number: int) -> Instance:
        """Return a living instance."""
        return self.cluster.instances[number % len(self.cluster.instances)]

    def seen(self, number: int) -> Seen:
        """Return one of the newest jobs."""
        return self.jobs[-1 - number % len(self.jobs)]

    def alive(self, number: int) -> Seen | None:
        """Return one of the newest jobs, if it runs where it was begun."""
        seen = self.seen(number)
        return seen if seen.at not in self.dead and seen.job in seen.at.in_flight else None

    @property
    def queueing(self) -> list[Seen]:
        """The jobs that nothing has happened to yet, where they were begun; the newest first."""
        alive = (seen for seen in self.jobs if seen.at not in self.dead and seen.job in seen.at.in_flight)
        return [seen for seen in alive if seen.job.state is State.ACCEPTED][::-1]

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(at=NUMBERS, body=st.sampled_from([b"good", b"bad"]))
    def a_job_is_submitted(self, at: int, body: bytes) -> None:
        """Without a key: anywhere."""
        self.start(self.instance(at), self.post(self.instance(at), body, None))

    @rule(at=NUMBERS, key=st.sampled_from("ab"), body=st.sampled_from([b"good", b"good", b"good", b"bad"]))
    def a_job_is_submitted_or_joined(self, at: int, key: str, body: bytes) -> None:
        """With a key: anywhere."""
        self.start(self.instance(at), self.post(self.instance(at), body, key))

    @rule(key=st.sampled_from("ab"))
    def a_job_is_submitted_or_joined_everywhere(self, key: str) -> None:
        """At once."""
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
                    # Later it may be: there are job servers that call back about what they have refused.
                    is_no = isinstance(outcome, Failed) and outcome.submitted is Submitted.NO
                    assert at in self.disturbed or not (is_no and seen.fates)

    async def outcome_at(self, at: Instance, found: Job | Record) -> Outcome:
        """Wait for the outcome of what was submitted or joined."""
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
                # A submission may leave only once it is recorded that it may; the runner waits for that.
                before = (Step.RECORD,) if step is Step.CONNECT else ()
                self.run(self.tell(seen, *before, step))

    @precondition(lambda self: self.queueing)
    @rule(job=NUMBERS)
    def a_runner_gets_a_job_through(self, job: int) -> None:
        """As far as it gets."""
        self.run(self.tell(self.queueing[job % len(self.queueing)], *SUBMIT))

    @precondition(lambda self: self.jobs)
    @rule(job=NUMBERS, code=st.sampled_from([Code.WORKER_DIED, Code.JOB_REJECTED, Code.JOB_SERVER_UNAVAILABLE]))
    def a_runner_gives_up(self, job: int, code: Code) -> None:
        """And says what it knows."""
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
        """Have a runner do something, as far as it gets."""
        seen.at.stepped.tell(seen.job, *orders)

    # --- the job server ----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(seen.token_left for seen in self.jobs))
    @rule(job=NUMBERS, at=NUMBERS, times=st.integers(1, 2))
    def a_job_is_over(self, job: int, at: int, times: int) -> None:
        """The job server says so, anywhere, and perhaps twice."""
        called = [seen for seen in self.jobs if seen.token_left]
        seen = called[-1 - job % len(called)]
        for number in range(times):
            where = self.instance(at + number)
            self.start(where, self.call(where, seen, *seen.ending))

    @precondition(lambda self: any(seen.token_left for seen in self.jobs))
    @rule(job=NUMBERS, at=NUMBERS)
    def a_job_makes_progress(self, job: int, at: int) -> None:
        """Or so the job server says."""
        called = [seen for seen in self.jobs if seen.token_left]
        where = self.instance(at)
        self.start(where, self.call(where, called[-1 - job % len(called)], b"{}", PROGRESS))

    async def call(self, at: Instance, seen: Seen, body: bytes, verdict: Verdict) -> None:
        """Call back, and note what is answered."""
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
        """Let a store be as it is said."""
        setattr(at.store, name, on)
        self.disturbed.add(at)

    @rule(at=NUMBERS)
    def an_instance_is_paused(self, at: int) -> None:
        """It neither reaches the store nor hears of anything."""
        self.disturbed.add(self.instance(at))
        self.run(self.call_cluster("pause", self.instance(at)))

    @rule(at=NUMBERS)
    def an_instance_wakes_up(self, at: int) -> None:
        """And goes on with what it was about to do."""
        self.run(self.call_cluster("wake", self.instance(at)))

    @rule(at=NUMBERS, lost=st.booleans())
    def a_store_loses_its_answers(self, at: int, *, lost: bool) -> None:
        """What it is told is recorded, and nobody knows."""
        self.run(self.set_store(self.instance(at), "loses_answers", on=lost))

    @rule(deaf=st.booleans())
    def what_instances_tell_one_another_is_lost(self, *, deaf: bool) -> None:
        """Or no longer."""
        self.cluster.store.deaf = deaf

    @rule(heir=NUMBERS, gone=NUMBERS)
    def an_instance_is_taken_for_dead(self, heir: int, gone: int) -> None:
        """Whether it is, or not."""
        others = [*self.dead, *self.cluster.instances]
        taken = others[gone % len(others)]
        if taken is not self.instance(heir):
            self.disturbed.add(taken)
            self.run(self.call_cluster("take_over", self.instance(heir), taken))

    @precondition(lambda self: self.queueing and len(self.cluster.instances) > 1)
    @rule(job=NUMBERS, heir=NUMBERS, before=st.integers(0, 4), key=st.sampled_from("ab"))
    def an_instance_sleeps_through_its_lease(self, job: int, heir: int, before: int, key: str) -> None:
        """In the middle of a job, whose client tries again elsewhere; then it goes on as if nothing had been."""
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
        """By whoever looks."""
        self.cluster.store.end_overdue()

    async def call_cluster(self, name: str, *instances: Instance) -> None:
        """Let something happen to instances."""
        getattr(self.cluster, name)(*instances)

    @rule(seconds=st.sampled_from([0.2, 0.5, 1.1, 10.0, 31.0]))
    def time_goes_by(self, seconds: float) -> None:
        """Patience and deadlines end."""
        self.run(time_passes(seconds))

    @precondition(lambda self: not self.dead)
    @rule(at=NUMBERS)
    def an_instance_is_killed(self, at: int) -> None:
        """Nobody has noticed yet."""
        killed = self.instance(at)
        self.dead.append(killed)
        self.run(self.call_cluster("kill", killed))

    @precondition(lambda self: len(self.cluster.instances) < 3)
    @rule()
    def an_instance_is_started(self) -> None:
        """It has nothing to do with what was."""
        self.run(self.call_cluster("add"))

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def each_job_has_one_outcome(self) -> None:
        """And is in flight as long as it has none."""
        for instance in self.cluster.instances:
            finished = Counter(job.id for job, _ in instance.notes.finished)
            assert not finished or max(finished.values()) == 1
            assert all(job.outcome.done() and job not in instance.in_flight for job, _ in instance.notes.finished)
            assert not any(job.outcome.done() for job in instance.in_flight)

    @invariant()
    def each_key_has_one_job_that_runs(self) -> None:
        """At most."""
        for seen in self.by_key.values():
            assert sum(each.may_run for each in seen) <= 1, "run twice under one key"

    @invariant()
    def nobody_who_looks_reads_no_of_a_job_that_may_run(self) -> None:
        """Neither in flight nor in the store, also of a job whose instance is dead."""
        for seen in self.jobs:
            record = self.on_record(seen)
            if seen.may_run:
                assert record is not None
                assert record.submitted is not Submitted.NO
                assert seen.job not in seen.at.in_flight or seen.job.submitted is not Submitted.NO

    @invariant()
    def a_callback_that_is_on_record_stays(self) -> None:
        """And there is one if anybody was told so; it proves that the job ran."""
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
        """Return what the store that all of them share has of a job."""
        return self.run(self.cluster.store.by_id(seen.job.id))

    def teardown(self) -> None:
        """Let everything recover and end; then hold that what is on record is what clients were told."""
        try:
            self.run(self.recover())
            assert all(at in self.dead for at in self.tasks.values()), "a client was left without an answer"
            for seen in self.jobs:
                self.hold_the_end(seen, self.on_record(seen))
        finally:
            self.loop.run_until_complete(self.end())
            self.loop.close()

    async def recover(self) -> None:
        """Let all that is alive come to its end."""
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
        """Compare what is on record of a job with what was told of it."""
        if record is None:  # its instance died before anything of it was recorded: nothing has left it
            assert seen.at in self.dead
            assert not seen.token_left
            return
        assert record.state is State.FINISHED
        assert record.outcome is not None
        for at, outcome in seen.told:
            assert at in self.disturbed or at in self.dead or outcome in (record.outcome, record.failure)
            if isinstance(outcome, Failed) and outcome.submitted is Submitted.NO:
                assert not seen.may_run

    async def end(self) -> None:
        """Leave nothing behind, the dead included."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for _ in range(2):
            for task in tasks:
                task.cancel()
            await nothing_moves()
        await asyncio.gather(*tasks, return_exceptions=True)


TestCore = Core.TestCase
TestCore.settings = settings(max_examples=60, stateful_step_count=30)
