"""What operators see of the job servers' health."""

from __future__ import annotations

import time

import pytest

from proxy.jobs.job import Job
from proxy.jobs.recorder import Recorder
from proxy.observe.job_server_health import Health, JobServerHealth
from proxy.store.memory import MemoryStore
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.outcome import Failed
from tests.support.jobs import a_job
from tests.support.records import a_record

_LATE = Failed(code=Code.DEADLINE_EXCEEDED, detail="in vain", submitted=Submitted.UNKNOWN)
_REJECTED = Failed(code=Code.JOB_REJECTED, detail="no", submitted=Submitted.NO)


def ended(*events: Event) -> Job:
    """Return a job that ended after these events."""
    job = a_job(recorder=Recorder(MemoryStore(3600), a_record(profile="cog")))
    for event in (*events, Event.FINISH):
        job.advance(event)
    return job


def health_after(outcome: Failed, *events: Event) -> Health:
    """Return the health of a job server after the end of one job."""
    health = JobServerHealth(["cog"])
    health.job_finished(ended(*events), outcome, {})
    return health.shown([])["cog"]


@pytest.mark.parametrize(
    ("outcome", "events", "failures"),
    [
        (_REJECTED, (Event.ASSIGN, Event.CONNECTED, Event.REFUSED), 1),
        (_LATE, (Event.ASSIGN, Event.CONNECTED), 1),
        (_LATE, (Event.ASSIGN,), 1),
        (_LATE, (Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ), 0),
        (_LATE, (), 0),
    ],
    ids=["rejected", "no reply", "no connection", "no callback", "no worker"],
)
async def test_a_submission_that_nobody_answers_is_a_failure(
    outcome: Failed, events: tuple[Event, ...], failures: int
) -> None:
    """A job server that hangs answers nothing, and its jobs end at their deadlines."""
    health = health_after(outcome, *events)
    assert health.failures_since == failures
    assert (health.last_failure == f"{outcome.code}: {outcome.detail}") is bool(failures)
    assert (health.last_success_at is not None) is (Event.REPLY_READ in events)


async def test_an_answer_ends_the_count() -> None:
    """What failed last stays."""
    health = JobServerHealth(["cog"])
    health.job_finished(ended(Event.ASSIGN, Event.CONNECTED), _LATE, {})
    in_flight = ended(Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ)
    shown = health.shown([in_flight])["cog"]
    assert shown.failures_since == 0
    assert shown.last_failure is not None


async def test_an_older_answer_does_not_end_the_count() -> None:
    """What failed since then is still all that is known of the job server now."""
    health = JobServerHealth(["cog"])
    answered = ended(Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ)
    answered.life[:] = [(at - 60, event) for at, event in answered.life]
    health.job_finished(ended(Event.ASSIGN, Event.CONNECTED), _LATE, {})
    shown = health.shown([answered])["cog"]
    assert shown.last_success_at is not None
    assert shown.failures_since == 1


async def test_a_change_of_the_wall_clock_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what happened does not follow it; what is shown does."""
    health = JobServerHealth(["cog"])
    answered = ended(Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ)
    health.job_finished(ended(Event.ASSIGN, Event.CONNECTED), _LATE, {})
    before = health.shown([answered])["cog"]
    assert before.last_success_at is not None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)

    after = health.shown([answered])["cog"]

    assert after.failures_since == 1
    assert after.last_success_at == pytest.approx(before.last_success_at + 3600, abs=1)
    assert after.last_failure_at == pytest.approx(before.last_success_at + 3600, abs=1)
