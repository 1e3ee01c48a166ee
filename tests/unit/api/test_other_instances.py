"""The answers of an instance that does not run the client's job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

import pytest

from proxy.api.clients import answers
from tests.support.failing_store import FailingStore
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Step
from tests.support.shared_store import Member, SharedStore
from tests.support.whole_app import DONE, WholeApp

KEY: Final = {"Idempotency-Key": '"a"'}


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[WholeApp]]:
    """Two instances that share a store."""
    shared = SharedStore()
    apps = []
    for name in ("east", "west"):
        member = Member(shared, name)
        apps.append(WholeApp(monkeypatch, FailingStore(member), peers=member))
    yield apps
    for app in apps:
        await app.close()


async def test_the_status_of_a_job_is_known_everywhere(pair: list[WholeApp]) -> None:
    """With its state, and `submitted`."""
    here, there = pair
    job = await here.begun(Step.QUEUE)
    seen = [await there.status(job)]
    here.stepped.tell(job, *SUBMIT[:3])
    await nothing_moves()
    seen.append(await there.status(job))
    here.stepped.tell(job, *SUBMIT[3:])
    await nothing_moves()
    seen.append(await there.status(job))
    await there.call_back(job)
    await nothing_moves()
    seen.append(await there.status(job))

    assert [(each["state"], each["submitted"], each["outcome"]) for each in seen] == [
        ("accepted", "no", None),
        ("submitting", "unknown", None),
        ("waiting", "yes", None),
        ("finished", "yes", "succeeded"),
    ]


async def test_the_result_of_a_job_is_waited_for_everywhere(pair: list[WholeApp]) -> None:
    """202 until there is one; with `Prefer: wait`, as soon as it exists, and with the newest state until then."""
    here, there = pair
    job = await here.waiting()
    path = f"/jobs/{job.id}/result"
    at_once = await there.ask("GET", path)
    in_vain = await there.ask("GET", path, headers={"Prefer": "wait=2"})
    waiting = asyncio.create_task(there.ask("GET", path, headers={"Prefer": "wait=20"}))
    await nothing_moves()
    await here.call_back(job)

    answer = await waiting

    assert [(each.status, each.document["state"]) for each in (at_once, in_vain)] == [(202, "waiting")] * 2
    assert (answer.status, answer.body, answer.headers["Job-Id"]) == (200, DONE, job.id)
    assert answer.headers["Preference-Applied"] == "wait=20"


async def test_a_key_joins_the_job_of_another_instance(pair: list[WholeApp]) -> None:
    """The same answer, of the same job, marked as a replay; nothing is submitted twice."""
    here, there = pair
    job = await here.waiting(KEY)
    asynchronous = await there.post(headers={**KEY, "Prefer": "respond-async"})
    joining = there.posting(headers=KEY)
    await nothing_moves()
    await there.call_back(job)

    answer = await joining
    again = await there.post(headers=KEY)
    refused = await there.post(b'{"other": 1}', headers=KEY)

    assert (asynchronous.status, asynchronous.headers["Location"]) == (202, f"/jobs/{job.id}")
    for each in (answer, again):
        assert (each.status, each.body, each.headers["Job-Id"]) == (200, DONE, job.id)
        assert each.headers["Idempotent-Replayed"] == "true"
    assert (refused.status, refused.document["submitted"]) == (422, "unknown")
    assert there.stepped.ran == []


async def test_nobody_waits_for_the_job_of_another_instance_at_one_that_ends(pair: list[WholeApp]) -> None:
    """The shutdown ends the wait: the client is told to retry, or gets the job's status if it prefers to."""
    here, there = pair
    job = await here.waiting(KEY)
    joining = there.posting(headers=KEY)
    preferring = there.posting(headers={**KEY, "Prefer": "wait=20"})
    await nothing_moves()
    began = asyncio.get_running_loop().time()
    await there.parts.core.dispatcher.drain()
    later = await there.ask("GET", f"/jobs/{job.id}/result", headers={"Prefer": "wait=20"})

    refused, status = await joining, await preferring

    assert asyncio.get_running_loop().time() - began < 1
    assert (refused.status, refused.document["code"]) == (503, "shutting-down")
    assert (refused.document["submitted"], refused.document["retry_safe"]) == ("unknown", False)
    assert "Retry-After" in refused.headers
    assert [(each.status, each.document["state"]) for each in (status, later)] == [(202, "waiting")] * 2
    assert here.job is job


async def test_two_instances_that_are_posted_one_key_at_once_give_one_answer(pair: list[WholeApp]) -> None:
    """A client that retried elsewhere gets the job of its first request."""
    posting = [app.posting(headers=KEY) for app in pair]
    await nothing_moves()
    (job,) = [job for app in pair for job in app.parts.core.in_flight]
    owner = next(app for app in pair if app.parts.core.in_flight)
    owner.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    await owner.call_back(job)

    both = [await each for each in posting]

    assert {(each.status, each.body, each.headers["Job-Id"]) for each in both} == {(200, DONE, job.id)}
    assert sorted(each.headers.get("Idempotent-Replayed", "") for each in both) == ["", "true"]


async def test_a_job_is_cancelled_everywhere(pair: list[WholeApp]) -> None:
    """The canceller sees that it ended; the waiting client gets `cancelled`; a second time changes nothing."""
    here, there = pair
    posting = here.posting()
    await nothing_moves()
    job = here.job
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()

    ended = [await there.ask("DELETE", f"/jobs/{job.id}") for _ in range(2)]
    answer = await posting

    documents = [each.document for each in ended]
    assert [(each["state"], each["code"], each["submitted"]) for each in documents] == [
        ("finished", "cancelled", "yes")
    ] * 2
    assert (answer.status, answer.document["code"], answer.document["submitted"]) == (500, "cancelled", "yes")
    assert answer.document["detail"] == documents[0]["detail"]


async def test_an_operator_stops_a_job_at_any_instance(pair: list[WholeApp]) -> None:
    """But not one that has ended or does not exist."""
    here, there = pair
    job = await here.waiting()
    headers = {"Host": "127.0.0.1", "Origin": "http://127.0.0.1", "X-Requested-By": "dashboard"}

    stopped = await there.ask_admin("POST", f"/jobs/{job.id}/stop", headers=headers)
    await nothing_moves()
    again = await there.ask_admin("POST", f"/jobs/{job.id}/stop", headers=headers)

    assert (stopped.status, stopped.document["outcome"]) == (200, "cancelled")
    assert again.status == 404
    assert not here.parts.core.in_flight


async def test_the_job_server_is_asked_now_at_any_instance(pair: list[WholeApp]) -> None:
    """But not for a page of another site, and not about an unknown job."""
    here, _ = pair
    job = await here.waiting()
    headers = {"Host": "127.0.0.1", "Origin": "http://127.0.0.1", "X-Requested-By": "dashboard"}

    answers = [await app.ask_admin("POST", f"/jobs/{job.id}/ask", headers=headers) for app in pair]
    foreign = await here.ask_admin("POST", f"/jobs/{job.id}/ask", headers=headers | {"Origin": "http://evil.example"})

    unknown = await here.ask_admin("POST", "/jobs/unknown/ask", headers=headers)

    assert [answer.status for answer in (*answers, foreign, unknown)] == [200, 200, 403, 404]
    assert [answer.document["kind"] for answer in answers] == ["unavailable"] * 2


async def test_only_so_many_wait_for_jobs_elsewhere(pair: list[WholeApp], monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get the current status; or, if there is no other answer, have to retry."""
    here, there = pair
    monkeypatch.setattr(answers, "_MAX_WAITS", 1)
    job = await here.waiting(KEY)
    joining = there.posting(headers=KEY)
    await nothing_moves()

    refused = await there.post(headers=KEY)
    told = await there.ask("GET", f"/jobs/{job.id}/result", headers={"Prefer": "wait=20"})

    assert (refused.status, refused.document["code"]) == (503, "overloaded")
    assert told.status == 202
    await here.call_back(job)
    assert (await joining).status == 200


async def test_a_client_that_leaves_ends_its_wait_and_nothing_else(pair: list[WholeApp]) -> None:
    """The job continues."""
    here, there = pair
    job = await here.waiting(KEY)
    joining = there.posting(headers=KEY)
    await nothing_moves()
    joining.cancel()
    await time_passes(1)

    assert joining.cancelled()
    await there.call_back(job)
    assert (await there.post(headers=KEY)).status == 200


async def test_without_the_store_nobody_knows_of_jobs_elsewhere(pair: list[WholeApp]) -> None:
    """Nor of their callbacks; clients have to retry, and get no answer that may be wrong."""
    here, there = pair
    job = await here.waiting(KEY)
    there.store.failing = True

    asked = [
        await there.ask("GET", f"/jobs/{job.id}"),
        await there.ask("DELETE", f"/jobs/{job.id}"),
        await there.post(headers=KEY),
        await there.call_back(job),
    ]

    assert [(each.status, each.document["code"], each.document["submitted"]) for each in asked] == [
        (503, "journal-unavailable", "unknown")
    ] * 4
    there.store.failing = False


async def test_the_dashboard_says_which_instance_it_shows(pair: list[WholeApp]) -> None:
    """So that one can tell several tabs apart."""
    names = [json.loads(app.parts.operators.snapshots.first())["status"]["instance"] for app in pair]

    assert names == ["east", "west"]


async def test_what_happened_elsewhere_is_in_the_metrics(pair: list[WholeApp]) -> None:
    """For operators of several instances."""
    here, there = pair
    job = await here.waiting()
    await there.call_back(job)
    await nothing_moves()

    text = (await here.ask_admin("GET", "/metrics", headers={"Host": "127.0.0.1"})).body.decode()

    assert "async_job_proxy_callbacks_elsewhere_total 1.0" in text
    assert "async_job_proxy_jobs_taken_over_total 0.0" in text


async def test_how_long_a_job_was_where_is_not_guessed_elsewhere(pair: list[WholeApp]) -> None:
    """The instance that took the callback does not know; at the job's own instance the page agrees with itself."""
    here, there = pair
    job = await here.waiting()
    await time_passes(20)
    await there.call_back(job)
    await nothing_moves()

    own, other = [
        (await app.ask_admin("GET", f"/jobs/{job.id}", headers={"Host": "127.0.0.1"})).document for app in pair
    ]
    patterns = (await there.ask_admin("GET", "/jobs/patterns", headers={"Host": "127.0.0.1"})).document

    assert other["phases"] == []
    assert (patterns["jobs"], patterns["phases"]["jobs"]) == (1, 0)
    assert [name for name, _ in own["phases"]] == ["queue", "start", "submission", "job", "delivery"]
    assert [what for _, what in own["events"]].count("connected") == own["attempts"]["submissions"] == 1


async def test_what_the_job_server_calls_a_job_is_learnt_elsewhere(pair: list[WholeApp]) -> None:
    """From its callback, wherever that comes."""
    here, there = pair
    job = await here.waiting()
    await there.call_back(job, b'{"state": "completed", "id": "4711"}')
    await nothing_moves()

    assert [(await app.status(job))["remote"] for app in pair] == [{"id": "4711"}] * 2
