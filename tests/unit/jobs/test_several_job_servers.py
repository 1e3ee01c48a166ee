"""Several job servers: none is asked about, told of, or believed about the jobs of another one."""

from __future__ import annotations

import asyncio

import pytest

from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job
from proxy.jobs.job_server import ServedJobServer
from proxy.store.record import Record
from shared.errors import Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import Kind
from shared.lifecycle import State, Submitted
from shared.messages import Told
from shared.outcome import Failed, Succeeded
from tests.support.failing_store import FailingStore
from tests.support.instances import FAILED, SUCCEEDED, Cluster, Instance
from tests.support.jumping_loop import nothing_moves
from tests.support.left_open_store import LeftOpenStore
from tests.support.records import a_record, finished
from tests.support.runners import SUBMIT

BODY = b'{"state": "completed"}'
#: Of each kind of name by which a callback at a fixed URL finds its job: ours, the token, the job server's.
FIXED = {"job_id": "github-actions", "callback_token": "buildbot", "id": "apify"}


async def waiting(instance: Instance, profile: str) -> Job:
    """Return a job of this profile that its job server has, and calls `remote`."""
    job = instance.submit(profile=profile)
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    job.learn({"id": "remote"})
    await nothing_moves()
    return job


def server(instance: Instance, profile: str) -> ServedJobServer:
    """Return a job server of this instance."""
    found = instance.served.by_name(profile)
    assert found is not None
    return found


def named(job: Job, output: str) -> str:
    """Return this name of the job."""
    return {"job_id": job.id, "callback_token": job.token, "id": "remote"}[output]


async def taken(instance: Instance, profile: str, name: str) -> CallbackFate | None:
    """Return what became of a callback at this profile's fixed URL; None: it is nobody's."""
    found = await instance.named_callbacks.find(server(instance, profile), name)
    return None if found is None else await instance.callback_intake.take(found.token_hash, BODY, SUCCEEDED)


# --- callbacks at a fixed URL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "profile"), FIXED.items())
async def test_one_url_takes_callbacks_of_its_own_jobs_only(output: str, profile: str) -> None:
    """Another job server might have to prove more."""
    instance = Instance(profile=f"replicate,{profile}")
    others, own = await waiting(instance, "replicate"), await waiting(instance, profile)

    if output != "id":
        assert await taken(instance, profile, named(others, output)) is None
    assert await taken(instance, profile, named(own, output)) is CallbackFate.ACCEPTED
    assert await own.outcome == Succeeded(body=BODY)
    assert not others.callback.done()


@pytest.mark.parametrize(("output", "profile"), FIXED.items())
async def test_it_takes_those_of_jobs_that_are_over(output: str, profile: str) -> None:
    """As any other URL does: the result is kept. Those of other job servers are nobody's."""
    instance = Instance(profile=f"replicate,{profile}")
    others, own = await waiting(instance, "replicate"), await waiting(instance, profile)
    await others.outcome
    await own.outcome

    if output != "id":
        assert await taken(instance, profile, named(others, output)) is None
    assert await taken(instance, profile, named(own, output)) is CallbackFate.LATE
    record = await instance.store.by_id(own.id)
    assert record is not None
    assert record.outcome == Succeeded(body=BODY)


@pytest.mark.parametrize(("output", "profile"), FIXED.items())
async def test_it_takes_those_of_jobs_of_other_instances(output: str, profile: str) -> None:
    """Behind one address, any of them may get it."""
    cluster = Cluster(2, profile=profile)
    here, there = cluster.instances
    job = await waiting(here, profile)
    here.store.note(job.recorder.record)
    await nothing_moves()

    assert await taken(there, profile, named(job, output)) is CallbackFate.ACCEPTED
    assert await job.outcome == Succeeded(body=BODY)


async def test_a_newer_job_with_that_name_of_another_kind_hides_no_job() -> None:
    """Clients choose labels, and job servers that count their jobs use the same ids."""
    instance = Instance(profile="replicate,apify")
    job = await waiting(instance, "apify")
    await job.outcome
    for members in (
        {"profile": "apify", "labels": {"account": "remote", "id": "remote"}},
        {"profile": "apify", "outputs": {"path": "remote"}},
        {"profile": "replicate", "outputs": {"id": "remote"}},
    ):
        await instance.store.put(finished(**members))

    assert await taken(instance, "apify", "remote") is CallbackFate.LATE


async def test_a_search_in_a_store_that_hangs_does_not_keep_others_waiting_for_ever() -> None:
    """Their senders can retry."""
    instance = Instance(profile="apify")
    instance.store.hanging = True
    began = asyncio.get_running_loop().time()
    finding = [asyncio.ensure_future(taken(instance, "apify", name)) for name in ("a", "b", "c")]
    for one in finding:
        with pytest.raises(StoreUnavailableError, match="takes too long"):
            await one

    assert asyncio.get_running_loop().time() - began == pytest.approx(5)
    assert instance.callback_intake.counts == {CallbackFate.UNRECORDED: 3}
    instance.store.hanging = False
    assert await taken(instance, "apify", "a") is None


@pytest.mark.parametrize("name", ["x", "0" * 31, "0" * 33, "\0", "0" * 31 + "g", "é"])
async def test_what_is_no_name_of_ours_is_not_looked_up(name: str) -> None:
    """No database takes every text."""
    instance = Instance(profile="github-actions")
    instance.store.failing = True
    assert await taken(instance, "github-actions", name) is None


async def test_what_nobody_can_be_called_is_not_searched_for() -> None:
    """As above."""
    instance = Instance(profile="apify")
    instance.store.failing = True
    assert await taken(instance, "apify", "a\0b") is None


# --- a profile that is no longer served ------------------------------------------------------------------------------


async def with_an_open_job() -> tuple[Instance, Record]:
    """Return an instance that has found an open job, whose profile it does not serve."""
    record = a_record(state=State.WAITING, profile="cog", outputs={"id": "1", "status_url": "/1", "cancel_url": "/1"})
    instance = Instance(store=FailingStore(LeftOpenStore(record)), profile="replicate")
    instance.asker.answers = [Told(job_id="", call="", kind=Kind.SUCCEEDED, body=b'{"of": "another job"}')]
    await instance.dispatcher.restore()
    return instance, record


async def test_a_job_whose_profile_is_gone_is_asked_about_nowhere() -> None:
    """Another job server may have a job with the same name. It stays open until its deadline."""
    instance, record = await with_an_open_job()
    job = instance.in_flight.by_id(record.id)
    assert job is not None

    told = await instance.inquiry.ask(record.id)
    assert told is not None
    assert (told.kind, told.error) == ("unavailable", "no job server with the profile cog is served here")
    outcome = await job.outcome

    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.submitted) == (Code.INTERRUPTED, Submitted.YES)
    await instance.dispatcher.drain()
    assert instance.asker.asked == []


async def test_operators_hear_of_a_profile_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its open jobs are found."""
    told: list[dict[str, object]] = []
    monkeypatch.setattr("proxy.jobs.dispatcher.log.event", lambda _level, _words, **fields: told.append(fields))
    await with_an_open_job()
    assert told == [{"never_submitted": 0, "waiting_for_callbacks": 1, "profiles_not_served": ["cog"]}]


async def test_a_job_whose_profile_is_gone_is_cancelled_nowhere() -> None:
    """Only here."""
    instance, record = await with_an_open_job()
    job = instance.dispatcher.cancel(record.id)
    assert job is not None
    outcome = await job.outcome
    await instance.dispatcher.drain()

    assert isinstance(outcome, Failed)
    assert outcome.code is Code.CANCELLED
    assert "the job server is told" not in outcome.detail
    assert instance.asker.asked == []


async def test_a_failure_without_a_reason_is_told_where_nobody_can_be_asked_for_it() -> None:
    """At once."""
    instance, record = await with_an_open_job()
    job = instance.in_flight.by_id(record.id)
    assert job is not None
    await instance.callback_intake.take(record.token_hash, b"{}", FAILED)
    outcome = await job.outcome

    assert isinstance(outcome, Failed)
    assert outcome.code is Code.JOB_FAILED
    assert instance.asker.asked == []


# --- idempotency keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [False, True])
async def test_a_key_is_not_for_the_jobs_of_two_job_servers(*, over: bool) -> None:
    """The second job would never be submitted, and its client would get the result of the first."""
    instance = Instance(profile="spreedly,cog")
    job, _ = await instance.join(profile="spreedly")
    assert isinstance(job, Job)
    if over:
        instance.stepped.tell(job, *SUBMIT)
        await nothing_moves()
        await instance.call_back(job)
        await job.outcome

    for body in (b"{}", b"another"):
        with pytest.raises(RequestError, match="was used for the profile spreedly") as refused:
            await instance.join(body, profile="cog")
        assert refused.value.code is Code.IDEMPOTENCY_KEY_REUSED
    found, joined = await instance.join(profile="spreedly")
    assert (found.id, joined) == (job.id, True)
