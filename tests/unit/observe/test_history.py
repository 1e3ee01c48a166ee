"""What the dashboard is told of a job, in flight and finished."""

from __future__ import annotations

import pytest

from proxy.jobs.in_flight import InFlight
from proxy.jobs.phases import phases
from proxy.observe.history import History, describe_in_flight
from shared.lifecycle import Event
from shared.outcome import Succeeded
from tests.support.jobs import a_job

OUTCOME = Succeeded(body=b"{}")


@pytest.mark.parametrize(
    ("said", "progress"),
    [([], None), (["starting", "busy"], {"state": "busy", "count": 2}), ([""], {"state": None, "count": 1})],
)
async def test_what_the_job_server_says_is_shown(said: list[str], progress: object) -> None:
    """What it calls the job, and the last of its progress; of a finished job as well, which is found by that name."""
    job = a_job()
    job.learn({"id": "their-7"}, from_reply=True)
    for state in said:
        job.progress(state)
    in_flight = InFlight()
    in_flight.add(job)
    shown = describe_in_flight(job, phases(job))
    assert (shown["remote_id"], shown["progress"]) == ("their-7", progress)
    assert in_flight.by_name("their-7") is job
    assert in_flight.by_name("") is None
    history = History()
    job.advance(Event.FINISH)
    history.job_finished(job, OUTCOME, phases(job))
    past = history.by_id("their-7")
    assert past is not None
    assert past is history.by_id(job.id)
    assert (past.describe()["remote_id"], past.describe()["progress"]) == ("their-7", progress)
