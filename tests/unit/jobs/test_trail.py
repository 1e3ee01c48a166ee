"""What a record keeps of the course of its job."""

from __future__ import annotations

import time
from typing import Final

import pytest

from proxy.jobs.trail import Trail, phases, phases_in, trail_of, trail_with, written
from shared.lifecycle import Event, State
from tests.support.jobs import a_job
from tests.support.records import finished

_USUAL: Final = (Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ)


async def test_a_trail_has_all_that_happened() -> None:
    """In order, including the current event; and the cause."""
    job = a_job()
    for event in _USUAL:
        job.advance(event)
    job.worker_pid = 4711
    job.lose_worker("SIGKILL")
    job.progress("busy")
    job.calls["outcome progress"] = 3

    trail = written(trail_of(job, Event.CALLBACK))
    assert [what for _, what in trail.events] == [*_USUAL, Event.PROGRESS, Event.CALLBACK]
    assert [at for at, _ in trail.events] == sorted(at for at, _ in trail.events)
    assert (trail.pid, trail.lost, trail.calls) == (4711, ["SIGKILL"], {"outcome progress": 3})
    assert (trail.progress, trail.adopted) == (("busy", 1), False)
    assert job.recorder.record.worker_end == "SIGKILL"


async def test_the_phases_on_record_are_those_that_were_measured() -> None:
    """Except for rounding, whichever phases were reached."""
    for steps in ([], [*_USUAL], [Event.ASSIGN, Event.WORKER_LOST, Event.ASSIGN, Event.CONNECTED]):
        job = a_job()
        for event in steps:
            job.advance(event)
        job.advance(Event.FINISH)
        measured = phases(job)
        total_ms = 1_000 * (job.reached[State.FINISHED] - job.reached[State.ACCEPTED])
        on_record = phases_in(written(trail_of(job)), total_ms)
        assert on_record == pytest.approx({name: 1_000 * took for name, took in measured.items()}, abs=0.3), steps


def test_phases_end_with_the_callback_where_nothing_later_is_known() -> None:
    """Later events were not recorded, so no delivery time is made up; the clocks differ a little."""
    events = [(0.5, "assign"), (2.0, "connected"), (10.0, "reply-read"), (510.0, "callback")]
    known = {"queue": 0.5, "start": 1.5, "submission": 8.0, "job": 500.0}
    assert phases_in(Trail(events=events), 518.8) == known
    assert phases_in(Trail(events=[*events, (513.0, "finish")]), 513.0) == known | {"delivery": 3.0}


def test_an_early_callback_leaves_out_what_it_overtook() -> None:
    """Like the measured phases."""
    events = [(0.5, "assign"), (2.0, "connected"), (3.0, "callback")]
    assert list(phases_in(Trail(events=events), 3.0)) == ["queue", "start", "submission"]


async def test_of_very_many_events_the_first_and_the_last_are_kept() -> None:
    """The record stays small."""
    job = a_job()
    for event in _USUAL:
        job.advance(event)
    for _ in range(300):
        job.progress("busy")
    text = trail_of(job, Event.CALLBACK)
    assert len(text) < 4_000
    assert written(text).events[0][1] == "assign"
    assert written(text).events[-1][1] == "callback"


async def test_the_times_of_a_job_that_was_left_open_count_from_its_acceptance() -> None:
    """That was in another process."""
    job = a_job()
    job.adopted = True
    now = time.time()
    job.recorder.record = finished(accepted_at=now - 60)
    (only,) = written(trail_of(job, Event.CALLBACK)).events
    assert only[0] == pytest.approx(60_000, abs=5_000)
    assert phases_in(written(trail_of(job, Event.CALLBACK)), 60_000) == {}


async def test_nothing_happens_before_a_job_was_accepted() -> None:
    """Even if the wall clock was set back by an hour since."""
    job = a_job()
    job.adopted = True
    job.recorder.record = finished(accepted_at=time.time() + 3600)
    (here,) = written(trail_of(job, Event.CALLBACK)).events
    (late,) = written(trail_with(job.recorder.record, Event.CALLBACK)).events
    assert 0 <= here[0] < 60_000
    assert late[0] == 0


def test_what_comes_late_is_added() -> None:
    """To the existing trail."""
    record = finished(accepted_at=time.time() - 1, trail='{"events":[[0.5,"assign"],[30.0,"finish"]],"pid":7}')
    trail = written(trail_with(record, Event.CALLBACK))
    assert [what for _, what in trail.events] == ["assign", "finish", "callback"]
    assert trail.pid == 7


def test_a_callback_at_another_instance_does_not_say_how_long_the_phases_took() -> None:
    """Only the instance that runs the job knows that."""
    record = finished(accepted_at=time.time() - 60, trail="")
    trail = written(trail_with(record, Event.CALLBACK))
    assert [what for _, what in trail.events] == ["callback"]
    assert phases_in(trail, 60_000) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"events": 7}', '{"events":[[1,"teleport"]]}'])
def test_what_cannot_be_read_says_nothing(text: str) -> None:
    """The job is shown anyway."""
    assert phases_in(written(text), 5.0) == {}
