"""Posting a job: how the request is read, in which order it can be refused, and the answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import pytest

from proxy.http.asgi import ClientGoneError
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.asgi import request_scope
from tests.support.http import problem
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT
from tests.support.whole_app import DONE, JSON_TYPE, WholeApp

KEY: Final = {"Idempotency-Key": '"a key"'}
TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("path", ["/queueJob", "/start"])
async def test_a_job_is_answered_with_its_callback(app: WholeApp, path: str) -> None:
    """The client's connection waits for it, at either address."""
    posting = asyncio.create_task(app.post(b'{"a": 1.10}', path=path))
    await nothing_moves()
    job = app.job
    app.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    assert (job.body, posting.done()) == (b'{"a":1.10}', False)

    await app.call_back(job)

    answer = await posting
    assert (answer.status, answer.body, answer.headers["Job-Id"]) == (200, DONE, job.id)


async def test_a_job_whose_callback_does_not_come_is_answered_by_its_deadline(app: WholeApp) -> None:
    """With what is known of the job."""
    posting = app.posting()
    await nothing_moves()
    app.stepped.tell(app.job, *SUBMIT)

    problem(await posting, "deadline-exceeded", 500, submitted="yes")


async def test_failures_have_statuses_of_their_own_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """GRANULAR_ERRORS."""
    app = WholeApp(monkeypatch, GRANULAR_ERRORS="true")
    problem(await app.post(), "deadline-exceeded", 504)
    await app.close()


@pytest.mark.parametrize(
    ("prefer", "status", "applied"),
    [
        ("respond-async", 202, "respond-async"),
        ("wait=5", 202, "wait=5"),
        ("wait=5, respond-async", 202, "respond-async, wait=5"),
        ("wait=60", 500, "wait=60"),
        ("wait=soon", 500, None),
        ("return=minimal", 500, None),
    ],
)
async def test_a_client_is_kept_waiting_as_it_prefers(
    app: WholeApp, prefer: str, status: int, applied: str | None
) -> None:
    """A job of 30 seconds without a callback; the answer says which preference was applied."""
    posting = app.posting(headers={"Prefer": prefer})
    await nothing_moves()
    app.stepped.tell(app.job, *SUBMIT)

    answer = await posting

    assert (answer.status, answer.headers.get("Preference-Applied")) == (status, applied)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "code", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, "unsupported-media-type", 415),
        (b"[]", JSON_TYPE, "invalid-request", 400),
        (b'{"a": NaN}', JSON_TYPE, "invalid-request", 400),
        (b'{"callback": "http://here"}', JSON_TYPE, "invalid-request", 400),
        (b"{}", JSON_TYPE | {"Idempotency-Key": '""'}, "invalid-request", 400),
        (b"{}", JSON_TYPE | {"Content-Length": "1048577"}, "payload-too-large", 413),
        (b" " * 1_048_577, JSON_TYPE, "payload-too-large", 413),
    ],
)
async def test_what_cannot_be_a_job_is_none(
    app: WholeApp, body: bytes, headers: dict[str, str], code: str, status: int
) -> None:
    """Nothing is started or submitted."""
    answer = await app.ask("POST", "/queueJob", body=body, headers=headers)

    problem(answer, code, status, submitted="no")
    assert (app.stepped.ran, app.store.puts) == ([], [])


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ("draining", "shutting-down"),
        ("full", "overloaded"),
        ("memory", "overloaded"),
        ("store", "journal-unavailable"),
    ],
)
async def test_a_job_that_is_not_admitted_is_refused_before_its_body_is_read(
    monkeypatch: pytest.MonkeyPatch, refusal: str, code: str
) -> None:
    """An overload is answered at once; the client learns when to retry."""
    app = WholeApp(monkeypatch, MAX_JOBS="1")
    match refusal:
        case "draining":
            app.parts.core.dispatcher.draining = True
        case "full":
            await app.waiting()
        case "memory":
            app.headroom.short_of = "memory"
        case _:
            app.store.failing = True

    problem(await app.post(b"no JSON at all"), code, 503, submitted="no")
    await app.close()


async def test_who_has_no_key_is_refused_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it sends; keys can be replaced while the proxy runs."""
    app = WholeApp(monkeypatch, API_KEYS="first")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic first"}):
        problem(await app.ask("POST", "/queueJob", body=b"x", headers=headers), "unauthorized", 401)
    app.parts.core.authorization.replace(("second",))
    problem(await app.post(headers={"Authorization": "Bearer first"}), "unauthorized", 401)

    await app.waiting(headers={"Authorization": "bearer second"})
    await app.close()


async def test_a_client_that_leaves_before_its_job_was_read_has_none(app: WholeApp) -> None:
    """But one that leaves afterwards has one."""

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        raise ClientGoneError

    await app.parts.public(request_scope("POST", "/queueJob", headers=JSON_TYPE), gone, send)
    assert app.stepped.ran == []

    posting = app.posting()
    await nothing_moves()
    posting.cancel()
    await nothing_moves()
    assert len(app.stepped.ran) == 1
    assert not app.job.cancelled.done()


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_fifty_requests_with_one_key_are_one_job(app: WholeApp) -> None:
    """All get its result; all but one are marked as replays."""
    postings = [app.posting(headers=KEY) for _ in range(50)]
    await nothing_moves()
    app.stepped.tell(app.job, *SUBMIT)
    await nothing_moves()
    await app.call_back(app.job)
    answers = await asyncio.gather(*postings, app.post(headers=KEY))

    assert Counter((answer.status, answer.body) for answer in answers) == {(200, DONE): 51}
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in answers) == {"true": 50, None: 1}
    assert app.stepped.submitted.total() == 1


async def test_a_key_is_its_holders_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two holders of API keys may use the same key for two jobs."""
    app = WholeApp(monkeypatch, API_KEYS="one,two")
    one, two = [await app.waiting(KEY | {"Authorization": f"Bearer {name}"}) for name in ("one", "two")]

    answer = await app.post(headers=KEY | {"Authorization": "Bearer one", "Prefer": "respond-async"})

    assert (answer.headers["Job-Id"], two.id != one.id) == (one.id, True)
    await app.close()


async def test_a_key_with_another_body_is_refused(app: WholeApp) -> None:
    """And does not affect the key's job."""
    job = await app.waiting(KEY)

    problem(await app.post(b'{"a": 1}', KEY), "idempotency-key-reused", 422, "unknown")
    assert job in app.parts.core.in_flight


async def test_a_job_that_is_there_is_joined_where_no_new_one_is_taken(app: WholeApp) -> None:
    """While draining, or short of memory; a finished job can be joined, too."""
    job = await app.waiting(KEY)
    app.headroom.short_of = "memory"
    app.parts.core.dispatcher.draining = True
    posting = app.posting(headers=KEY)
    await nothing_moves()
    await app.call_back(job)

    assert (await posting).body == DONE
    assert (await app.post(headers=KEY)).body == DONE


async def test_a_key_that_nobody_can_look_up_begins_nothing(app: WholeApp) -> None:
    """An earlier request may have begun its job, but that cannot be checked."""
    app.store.failing = True

    problem(await app.post(headers=KEY), "journal-unavailable", 503, submitted="unknown")
    assert app.stepped.ran == []


async def test_a_job_is_begun_anew_only_where_nothing_was_submitted(app: WholeApp) -> None:
    """A new job with another id."""
    first = await app.begun(headers=KEY)
    app.stepped.tell(first, Failed(code=Code.NO_WORKER, detail="none", submitted=Submitted.NO))
    await first.outcome
    second = await app.waiting(KEY)
    assert second.id != first.id
    await time_passes(31)

    answer = await app.post(headers=KEY)

    problem(answer, "deadline-exceeded", 500, submitted="yes")
    assert (answer.headers["Job-Id"], answer.headers["Idempotent-Replayed"]) == (second.id, "true")


# --- trace context ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ({}, ("", "")),
        ({"traceparent": TRACE}, (TRACE, "")),
        ({"traceparent": TRACE, "tracestate": "a=b"}, (TRACE, "a=b")),
        ({"traceparent": TRACE, "tracestate": "a" * 513}, (TRACE, "")),
        ({"traceparent": TRACE, "tracestate": "a=\x01"}, (TRACE, "")),
        ({"traceparent": TRACE.upper(), "tracestate": "a=b"}, ("", "")),
        ({"traceparent": "ff" + TRACE[2:]}, ("", "")),
        ({"traceparent": TRACE[:3] + "0" * 32 + TRACE[35:]}, ("", "")),
    ],
)
async def test_a_trace_is_passed_on_if_it_is_one(
    app: WholeApp, given: dict[str, str], passed_on: tuple[str, str]
) -> None:
    """An invalid one is dropped, as the recommendation says."""
    job = await app.begun(headers=given)

    assert (job.traceparent, job.tracestate) == passed_on
