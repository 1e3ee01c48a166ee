"""Jobs in flight, found by id and by the hash of their token."""

from __future__ import annotations

import pytest

from proxy.jobs.in_flight import InFlight
from proxy.jobs.job import token_hash
from shared.lifecycle import Event, IllegalEventError, State, Submitted
from tests.support.jobs import a_job


async def test_a_job_is_found_by_its_id_and_by_its_token_until_it_is_removed() -> None:
    """And by nothing else."""
    in_flight, job, other = InFlight(), a_job(), a_job()
    in_flight.add(job)
    in_flight.add(other)
    assert in_flight.by_id(job.id) is job
    assert in_flight.by_token(token_hash(job.token)) is job
    assert in_flight.by_token(job.token.encode()) is None
    assert in_flight.by_token(token_hash(job.id)) is None
    assert in_flight.by_id(job.token) is None
    in_flight.remove(job)
    assert in_flight.by_id(job.id) is None
    assert in_flight.by_token(token_hash(job.token)) is None
    assert list(in_flight) == [other]
    assert len(in_flight) == 1


async def test_jobs_are_counted_by_state() -> None:
    """For metrics."""
    in_flight, jobs = InFlight(), [a_job() for _ in range(3)]
    for job in jobs:
        in_flight.add(job)
    jobs[0].advance(Event.ASSIGN)
    assert in_flight.by_state() == {State.ACCEPTED: 2, State.ASSIGNED: 1}


async def test_jobs_can_be_removed_while_they_are_looked_through() -> None:
    """A job may end at any time."""
    in_flight = InFlight()
    for _ in range(3):
        in_flight.add(a_job())
    for job in in_flight:
        in_flight.remove(job)
    assert len(in_flight) == 0


async def test_ids_and_tokens_are_long_and_differ() -> None:
    """128 and 256 bits; the token is not in what a log may show of a job."""
    jobs = [a_job() for _ in range(100)]
    assert len({job.id for job in jobs}) == len({job.token for job in jobs}) == 100
    for job in jobs:
        assert len(bytes.fromhex(job.id)) == 16
        assert len(job.token) == 43
        assert job.token not in repr(job)


async def test_an_illegal_event_leaves_a_job_as_it_was() -> None:
    """State and times do not change."""
    job = a_job()
    reached = dict(job.reached)
    with pytest.raises(IllegalEventError):
        job.advance(Event.REPLY_READ)
    assert (job.state, job.reached, job.submitted) == (State.ACCEPTED, reached, Submitted.NO)
