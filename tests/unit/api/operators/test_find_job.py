"""How an operator finds a job, by whatever they know of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.api.clients.request_headers import Authorization
from proxy.api.operators.dashboard import FindJob
from proxy.jobs.job_server import ServedJobServers
from proxy.jobs.trail import phases
from proxy.observe.history import History
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.outcome import Failed
from tests.support.http import problem
from tests.support.instances import Instance, a_job_server
from tests.support.jobs import a_job
from tests.support.jumping_loop import nothing_moves
from tests.support.records import finished
from tests.support.runners import SUBMIT
from tests.support.whole_app import WholeApp

_KEYS = {"one": "secret-1", "two": "secret-2"}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """The whole application, for clients with keys."""
    whole = WholeApp(monkeypatch, API_KEYS=",".join(_KEYS.values()))
    yield whole
    await whole.close()


def headers(client: str, key: str) -> dict[str, str]:
    """Return the headers of a client's request."""
    return {"Authorization": f"Bearer {_KEYS[client]}", "Idempotency-Key": f'"{key}"'}


async def found(app: WholeApp, text: str) -> object:
    """Return the id of the job that was found."""
    return (await app.ask_admin("GET", f"/jobs/{text}")).document.get("job_id")


@pytest.mark.parametrize("over", [False, True], ids=["in flight", "finished"])
async def test_a_job_is_found_by_what_people_know_of_it(app: WholeApp, *, over: bool) -> None:
    """Its id, the beginning of its id, the job server's id, a label, its key; the newest of several."""
    jobs = []
    for client in _KEYS:
        body = b'{"account": "acme-%b", "team": 1}' % client.encode()
        job = await app.begun(*SUBMIT, body=body, headers=headers(client, f"order-{client}"))
        job.learn({"id": f"theirs-{client}"})
        jobs.append(job)
        if over:
            await app.call_back(job)
            await job.outcome
    for job, client in zip(jobs, _KEYS, strict=True):
        for text in (job.id, job.id[:8], f"theirs-{client}", f"acme-{client}", f"order-{client}"):
            assert await found(app, text) == job.id, text
    problem(await app.ask_admin("GET", "/jobs/nobodys"), "not-found", 404)
    problem(await app.ask_admin("GET", f"/jobs/{jobs[0].id[:3]}"), "not-found", 404)
    problem(await app.ask_admin("GET", "/jobs/schlüssel"), "not-found", 404)


async def test_a_name_may_have_slashes(app: WholeApp) -> None:
    """As labels, keys and the ids of some job servers do; no name is empty."""
    job = await app.begun(*SUBMIT, body=b'{"account": "team/a"}', headers=headers("one", "order/1/stop"))
    job.learn({"id": "projects/1/operations/2"})
    for text in ("team/a", "order/1/stop", "projects/1/operations/2"):
        assert await found(app, text) == job.id, text
    problem(await app.ask_admin("GET", "/jobs/"), "not-found", 404)


async def test_of_several_with_a_label_the_newest_is_found(app: WholeApp) -> None:
    """It is the one that is usually meant."""
    older = await app.begun(*SUBMIT, body=b'{"account": "acme"}', headers=headers("one", "a"))
    newer = await app.begun(*SUBMIT, body=b'{"account": "acme"}', headers=headers("one", "b"))
    assert await found(app, "acme") == newer.id
    await app.call_back(newer)
    await newer.outcome
    assert await found(app, "acme") == older.id, "one in flight comes first"


async def test_a_job_of_before_the_start_is_found_by_what_people_know_of_it(app: WholeApp) -> None:
    """The store has it, and its names."""
    record = finished(id="b" * 8 + "1" * 24, labels={"account": "acme"}, outputs={"id": "theirs"})
    await app.store.put(record)
    for text in (record.id, record.id[:8], "acme", "theirs"):
        assert await found(app, text) == record.id, text
    problem(await app.ask_admin("GET", "/jobs/acm"), "not-found", 404)


async def test_nobody_is_told_that_there_is_no_such_job_while_nobody_knows(app: WholeApp) -> None:
    """If the journal cannot be read, the answer is an error."""
    app.store.failing = True
    problem(await app.ask_admin("GET", "/jobs/acme"), "journal-unavailable", 503)


@pytest.mark.parametrize("callback", [b'{"state": "running"}', b'{"state": "completed"}', b"no JSON"])
async def test_a_callback_after_the_end_shows_that_a_job_ran(app: WholeApp, callback: bytes) -> None:
    """Whatever it says: everybody is told the same from then on, in the list of failures as well."""
    job = await app.begun(*SUBMIT[:1], headers=headers("one", "a"))
    app.stepped.tell(job, Failed(code=Code.JOB_REJECTED, detail="400", submitted=Submitted.NO))
    await job.outcome
    await nothing_moves()
    history = app.parts.core.observers.history
    assert [one["submitted"] for one in history.failures()] == ["no"]

    await app.call_back(job, callback)
    await nothing_moves()

    assert [one["submitted"] for one in history.failures()] == ["yes"]
    assert (await app.ask_admin("GET", f"/jobs/{job.id}")).document["submitted"] == "yes"
    app.store.failing = True
    assert (await app.ask_admin("GET", f"/jobs/{job.id}")).document["submitted"] == "yes"


async def test_without_a_record_nobody_says_that_a_job_did_not_run() -> None:
    """A callback may have come since, of which only the forgotten record knew."""
    history, instance = History(), Instance()
    served = ServedJobServers([a_job_server("spreedly")])
    find = FindJob(instance.in_flight, history, instance.store, Authorization(()), None, served, instance.inquiry)
    job = a_job()
    job.advance(Event.FINISH)
    history.job_finished(job, Failed(code=Code.JOB_REJECTED, detail="400", submitted=Submitted.NO), phases(job))

    assert (await find.find(job.id))["submitted"] == "unknown"


async def test_no_job_has_a_name_with_a_nul(app: WholeApp) -> None:
    """PostgreSQL cannot be asked for one."""
    app.store.failing = True
    problem(await app.ask_admin("GET", "/jobs/a\0"), "not-found", 404)


async def test_a_job_leads_to_the_job_server_where_that_can_be_asked_or_looked_at() -> None:
    """The job server is not asked about a finished job; without a page of the job server, there is no link."""
    instance = Instance(profile="replicate")
    served = ServedJobServers([a_job_server("replicate")])
    find = FindJob(instance.in_flight, History(), instance.store, Authorization(()), None, served, instance.inquiry)
    job = instance.submit()
    assert (await find.find(job.id)).items() >= {"can_ask": True, "remote_link": None}.items()
    instance.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    job.learn({"id": "a1"})
    assert (await find.find(job.id))["remote_link"] == "https://replicate.com/p/a1"
    await instance.call_back(job)
    await job.outcome
    over = await find.find(job.id)
    assert (over["can_ask"], over["remote_link"]) == (False, "https://replicate.com/p/a1")
