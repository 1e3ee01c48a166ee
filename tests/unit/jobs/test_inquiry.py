"""Asking the job server about a job for a person: here, at another instance, and after its end."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from shared.errors import Code, StoreUnavailableError
from shared.job_server.verdict import Kind, Verdict
from shared.lifecycle import State, Submitted
from shared.messages import Told
from shared.outcome import Failed, Succeeded
from tests.support.instances import Cluster, Instance
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Step

BODY = b'{"status": "succeeded"}'
#: The values that the profile's calls need.
NAMED = {"id": "1", "status_url": "http://job-server/1", "cancel_url": "http://job-server/1/cancel"}


def said(kind: str, body: bytes = BODY, error: str = "") -> Told:
    """An answer of the job server."""
    return Told(job_id="", call="", kind=kind, state="processing", error=error, body=body)


async def begun(at: Instance, *steps: Step) -> Job:
    """A job after these steps, whose job server's names are known."""
    job = at.submit()
    await nothing_moves()
    at.stepped.tell(job, *steps)
    job.learn(NAMED)
    await nothing_moves()
    return job


async def overdue(at: Instance, *steps: Step) -> Job:
    """A job whose client got `deadline-exceeded`."""
    job = await begun(at, *(steps or SUBMIT))
    at.stepped.tell(job, Code.DEADLINE_EXCEEDED)
    assert isinstance(await job.outcome, Failed)
    await nothing_moves()
    assert at.in_flight.by_id(job.id) is None
    return job


@pytest.fixture
def cluster() -> Cluster:
    """Two instances whose job server can be asked."""
    return Cluster(2, profile="replicate")


async def test_a_job_of_another_instance_is_asked_about_and_ended(cluster: Cluster) -> None:
    """The answer is recorded here, and ends the job at its instance."""
    here, there = cluster.instances
    job = await begun(here, *SUBMIT)
    there.asker.answers = [said(Kind.PROGRESS), said(Kind.SUCCEEDED)]

    first = await there.inquiry.ask(job.id)
    assert first is not None
    assert first.kind == Kind.PROGRESS
    assert not job.outcome.done()
    await there.inquiry.ask(job.id)

    assert await job.outcome == Succeeded(body=BODY)
    assert [call for _, call, _ in there.asker.asked] == ["outcome"] * 2
    assert here.asker.asked == []
    record = await here.store.by_id(job.id)
    assert record is not None
    assert (record.state, record.late, record.duplicates) == (State.FINISHED, False, 0)


async def test_a_job_that_ended_without_a_callback_gets_its_late_result() -> None:
    """Later requests get the result; the client's earlier answer stays recorded."""
    instance = Instance(profile="replicate")
    job = await overdue(instance)
    instance.asker.answers = [said(Kind.SUCCEEDED)]
    before = await instance.store.by_id(job.id)
    assert before is not None
    assert instance.inquiry.can_ask(before)

    await instance.inquiry.ask(job.id)

    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.late) == (Succeeded(body=BODY), True)
    assert record.failure is not None
    assert not instance.inquiry.can_ask(record)
    assert instance.callback_intake.counts[CallbackFate.LATE] == 0, "no callback came"
    _, _, deadline = instance.asker.asked[-1]
    assert deadline > time.monotonic(), "though the job's own is over"


async def test_an_answer_that_comes_when_the_job_has_just_ended_is_its_late_result() -> None:
    """The operator who asked is told that the job has succeeded, so it has to be so."""
    instance = Instance(profile="replicate")
    job = await begun(instance, *SUBMIT)
    instance.asker.answers = [said(Kind.SUCCEEDED)]
    ask = instance.asker.ask

    async def ended_meanwhile(job: Job, call: str, deadline: float) -> Told:
        instance.dispatcher.cancel(job.id)
        instance.store.hanging = True  # its end is being recorded
        await nothing_moves()
        assert job.state is State.FINISHED
        asyncio.get_running_loop().call_later(0.1, setattr, instance.store, "hanging", False)
        return await ask(job, call, deadline)

    instance.asker.ask = ended_meanwhile  # type: ignore[method-assign]

    told = await instance.inquiry.ask(job.id)

    assert told is not None
    assert told.kind == Kind.SUCCEEDED
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.late) == (Succeeded(body=BODY), True)


ANNOUNCED = Verdict(kind=Kind.NOTIFICATION, state="completed", outputs={"id": "7"})


async def overdue_and_announced(at: Instance) -> Job:
    """A job that ended without an outcome, which the job server announces twice after that."""
    job = at.submit()
    await nothing_moves()
    at.stepped.tell(job, *SUBMIT, Code.DEADLINE_EXCEEDED)
    assert isinstance(await job.outcome, Failed)
    await nothing_moves()
    for _ in range(2):
        assert await at.call_back(job, b"{}", ANNOUNCED) is CallbackFate.PROGRESS
    return job


async def test_an_outcome_that_is_announced_late_is_asked_for() -> None:
    """A callback with the result would have been kept as well. It may not be available at once."""
    instance = Instance(profile="assemblyai")
    instance.asker.answers = [said(Kind.PROGRESS, b""), said(Kind.SUCCEEDED)]
    job = await overdue_and_announced(instance)
    await time_passes(1)
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.late, record.outputs["id"]) == (Succeeded(body=BODY), True, "7")
    assert [call for _, call, _ in instance.asker.asked] == ["outcome"] * 2
    assert await instance.call_back(job, b"{}", ANNOUNCED) is CallbackFate.PROGRESS
    await time_passes(100)
    assert len(instance.asker.asked) == 2


async def test_an_outcome_that_was_announced_in_time_but_came_late_is_asked_for() -> None:
    """It was not available before the deadline."""
    instance = Instance(profile="assemblyai", job_timeout_s=3)
    job = instance.submit()
    await nothing_moves()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    instance.asker.answers = [said(Kind.PROGRESS, b"")] * 7 + [said(Kind.SUCCEEDED)]
    await instance.call_back(job, b"{}", ANNOUNCED)
    outcome = await job.outcome
    assert isinstance(outcome, Failed)
    assert outcome.code is Code.DEADLINE_EXCEEDED
    await time_passes(3)
    record = await instance.store.by_id(job.id)
    assert record is not None
    assert (record.outcome, record.late) == (Succeeded(body=BODY), True)


async def test_an_outcome_that_is_not_there_is_asked_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it could not be recorded: as rarely as any other."""
    instance = Instance(profile="assemblyai")
    instance.asker.answers = [said(Kind.PROGRESS, b"")] * 3 + [said(Kind.SUCCEEDED)] * 20

    async def unavailable(*_: object) -> None:
        raise StoreUnavailableError("the disk is full")

    monkeypatch.setattr(instance.callback_intake, "take_answer", unavailable)
    since = time.monotonic()
    await overdue_and_announced(instance)
    await time_passes(1_000)
    times = [round(at - since, 1) for at in instance.asker.at]
    assert times == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 22.7, 32.7, 42.7, 52.7, 59.9]


async def test_it_may_have_failed_there(cluster: Cluster) -> None:
    """With the job server's reason."""
    here, there = cluster.instances
    job = await overdue(here, *SUBMIT[:-1])
    there.asker.answers = [said(Kind.FAILED, error="out of memory")]

    await there.inquiry.ask(job.id)

    record = await here.store.by_id(job.id)
    assert record is not None
    assert (record.says_failed, record.error, record.submitted) == (True, "out of memory", Submitted.YES)


async def test_a_callback_that_comes_while_it_is_asked_counts_once(cluster: Cluster) -> None:
    """The answer is not a second callback."""
    here, there = cluster.instances
    job = await overdue(here)
    there.asker.answers = [said(Kind.SUCCEEDED, body=b'{"status": "other"}')]
    asking = there.poller.ask_about

    async def called_back_meanwhile(job: Job) -> Told:
        assert await here.call_back(job_here, BODY) is CallbackFate.LATE
        return await asking(job)

    job_here = job
    there.poller.ask_about = called_back_meanwhile  # type: ignore[method-assign,assignment]
    await there.inquiry.ask(job.id)

    record = await here.store.by_id(job.id)
    assert record is not None
    assert (record.callback, record.duplicates) == (BODY, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"callback": BODY}, "already recorded"),
        ({"failure": Failed(code=Code.NO_WORKER, detail="", submitted=Submitted.NO)}, "was not given the job"),
        ({"profile": "gone"}, "gone"),
        ({"outputs": {}}, "not given its id"),
    ],
)
async def test_what_cannot_tell_more_is_not_asked(changed: dict[str, object], reason: str) -> None:
    """The error says why; the page shows no button."""
    instance = Instance(profile="replicate")
    job = await overdue(instance)
    record = await instance.store.by_id(job.id)
    assert record is not None
    other = replace(record, **changed)
    await instance.store.put(other)

    told = await instance.inquiry.ask(job.id)

    assert told is not None
    assert told.kind == "unavailable"
    assert reason in told.error
    assert "outcome" not in [call for _, call, _ in instance.asker.asked]
    assert not instance.inquiry.can_ask(other)


async def test_there_is_nothing_to_ask_of_a_profile_without_calls() -> None:
    """Nor about an unknown job."""
    instance = Instance()
    job = instance.submit()
    assert not instance.inquiry.can_ask(job.recorder.record)
    assert await instance.inquiry.ask("unknown") is None


@pytest.mark.parametrize("job_id", ["\0", "0" * 31])
async def test_what_is_no_id_is_not_looked_up(job_id: str) -> None:
    """A store may refuse to be asked, as PostgreSQL does for a NUL."""
    instance = Instance(profile="replicate")
    instance.store.failing = True

    assert await instance.inquiry.ask(job_id) is None


async def test_what_cannot_be_recorded_is_said() -> None:
    """The error says that the answer does not count yet."""
    instance = Instance(profile="replicate")
    job = await overdue(instance)
    instance.asker.answers = [said(Kind.SUCCEEDED)]
    asking = instance.poller.ask_about

    async def away_meanwhile(job: Job) -> Told:
        instance.store.failing = True
        return await asking(job)

    instance.poller.ask_about = away_meanwhile  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailableError):
        await instance.inquiry.ask(job.id)
