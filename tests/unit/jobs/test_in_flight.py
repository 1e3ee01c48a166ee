"""Jobs in flight, found by id and by the hash of their token."""

from __future__ import annotations

import pytest

from proxy.jobs.in_flight import Registry
from proxy.jobs.job import Job, token_hash
from shared.lifecycle import Event, IllegalEventError, State, Submitted


def a_job() -> Job:
    """A job; an event loop must run."""
    return Job(body=b"{}", deadline=0.0)


async def test_a_job_is_found_by_its_id_and_by_its_token_until_it_is_removed() -> None:
    """And by nothing else."""
    registry, job, other = Registry(), a_job(), a_job()
    registry.add(job)
    registry.add(other)
    assert registry.by_id(job.id) is job
    assert registry.by_token(token_hash(job.token)) is job
    assert registry.by_token(job.token.encode()) is None
    assert registry.by_token(token_hash(job.id)) is None
    assert registry.by_id(job.token) is None
    registry.remove(job)
    assert registry.by_id(job.id) is None
    assert registry.by_token(token_hash(job.token)) is None
    assert list(registry) == [other]
    assert len(registry) == 1


async def test_jobs_are_counted_by_state() -> None:
    """For metrics."""
    registry, jobs = Registry(), [a_job() for _ in range(3)]
    for job in jobs:
        registry.add(job)
    jobs[0].advance(Event.ASSIGN)
    assert registry.by_state() == {State.ACCEPTED: 2, State.ASSIGNED: 1}


async def test_jobs_can_be_removed_while_they_are_looked_through() -> None:
    """A job may end at any moment."""
    registry = Registry()
    for _ in range(3):
        registry.add(a_job())
    for job in registry:
        registry.remove(job)
    assert len(registry) == 0


async def test_ids_and_tokens_are_long_and_differ() -> None:
    """128 and 256 bits; the token is not in what a log may show of a job."""
    jobs = [a_job() for _ in range(100)]
    assert len({job.id for job in jobs}) == len({job.token for job in jobs}) == 100
    for job in jobs:
        assert len(bytes.fromhex(job.id)) == 16
        assert len(job.token) == 43
        assert job.token not in repr(job)


async def test_an_illegal_event_leaves_a_job_as_it_was() -> None:
    """State and times are untouched."""
    job = a_job()
    reached = dict(job.reached)
    with pytest.raises(IllegalEventError):
        job.advance(Event.REPLY_READ)
    assert (job.state, job.reached, job.submitted) == (State.ACCEPTED, reached, Submitted.NO)
