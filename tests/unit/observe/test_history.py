"""The dashboard's data about a job, in flight and finished."""

from __future__ import annotations

import itertools
import time

import pytest

from proxy.jobs.in_flight import InFlight
from proxy.jobs.left_open import adopt
from proxy.jobs.trail import phases
from proxy.observe.history import History
from proxy.store.memory import MemoryStore
from shared.errors import Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.jobs import a_job
from tests.support.records import a_record, finished

OUTCOME = Succeeded(body=b"{}")


@pytest.mark.parametrize(
    ("said", "progress"),
    [([], None), (["starting", "busy"], {"state": "busy", "count": 2}), ([""], {"state": None, "count": 1})],
)
async def test_what_the_job_server_says_is_shown(said: list[str], progress: object) -> None:
    """Its id of the job, and the last progress; also for a finished job, which is found by that id."""
    job = a_job()
    job.learn({"id": "their-7"})
    for state in said:
        job.progress(state)
    in_flight = InFlight()
    in_flight.add(job)
    assert in_flight.by_name("their-7") is job
    assert in_flight.by_name("") is None
    history = History()
    job.advance(Event.FINISH)
    history.job_finished(job, OUTCOME, phases(job))
    past = history.by_id("their-7")
    assert past is not None
    assert past is history.by_id(job.id)
    assert (past.describe()["remote_id"], past.describe()["progress"]) == ("their-7", progress)


async def test_the_last_failures_of_before_the_start_are_there() -> None:
    """The newest first, with what the store knows; they are found by all their names."""
    store, history = FailingStore(), History()
    failure = Failed(code=Code.DEADLINE_EXCEEDED, detail="no callback came in time", submitted=Submitted.YES)
    told = {"profile": "cog", "labels": {"account": "acme"}, "outputs": {"id": "theirs"}}
    first = finished(callback=None, failure=failure, **told)
    await store.put(first)
    await store.put(finished())
    second = finished(callback=b"{}", says_failed=True, error="out of memory")
    await store.put(second)

    await history.restore(store)

    newest, older = history.failures()
    assert (newest["job_id"], newest["outcome"], newest["submitted"]) == (second.id, "job-failed", "yes")
    assert "out of memory" in newest["detail"]
    assert (older["job_id"], older["outcome"], older["detail"]) == (first.id, "deadline-exceeded", failure.detail)
    assert (older["profile"], older["remote_id"], older["phases"], older["events"]) == ("cog", "theirs", [], [])
    found = history.by_id("acme")
    assert found is not None
    assert found.id == first.id


async def test_a_job_that_an_earlier_process_began_lasted_since_then() -> None:
    """Only its end is known here, so its course is that of the record."""
    instants = itertools.count(7.0)
    store, history = MemoryStore(3600), History(lambda: next(instants))
    now = time.time()
    job = adopt(store, a_record(state=State.WAITING, accepted_at=now - 60, deadline_at=now))
    job.advance(Event.FINISH)
    history.job_finished(job, OUTCOME, phases(job))
    past = history.by_id(job.id)
    assert past is not None
    assert past.total_s >= 60
    assert past.describe()["events"] == []
    ended, failed, median_ms, high_ms = history.seconds()[-1]
    assert (ended, failed) == (1, 0)
    assert median_ms == high_ms >= 60_000


async def test_a_store_that_cannot_be_read_does_not_keep_anybody_from_starting() -> None:
    """Earlier failures are not that important."""
    store, history = FailingStore(), History()
    store.failing = True
    await history.restore(store)
    assert history.failures() == []
