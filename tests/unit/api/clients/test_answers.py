"""How answers about a job look to its client: its outcome, 202 while there is none, and the status document."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from starlette.types import Message

from proxy.api.clients.answers import Answers, status_document
from proxy.http.asgi import ClientGoneError
from proxy.http.fair_turns import turns
from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import AdmissionError, Code
from shared.job_server.verdict import job_failed
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.asgi import ask, request_scope
from tests.support.failing_store import FailingStore
from tests.support.http import Answer, problem
from tests.support.instances import Instance
from tests.support.jobs import a_job
from tests.support.jumping_loop import nothing_moves
from tests.support.records import a_record, finished
from tests.support.waiting import eventually

DONE: Final = Succeeded(body=b'{"cost": 1.10}')
OVERDUE: Final = Failed(code=Code.DEADLINE_EXCEEDED, detail="too late", submitted=Submitted.YES)
TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def answered(
    found: Job | Record,
    *,
    limit_s: float | None = None,
    applied: bytes = b"",
    replayed: bool = False,
    granular: bool = False,
    root_path: str = "",
) -> Answer:
    """Return the answer about a job."""
    answers = Answers(Instance().elsewhere, lambda: None, granular_errors=granular)

    async def app(scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await answers.of_job(scope, send, found, limit_s=limit_s, applied=applied, replayed=replayed)

    return await ask(app, "POST", "/queueJob", root_path=root_path)


async def over(outcome: Outcome, **members: Any) -> Job:
    """Return a job that has just ended."""
    job = a_job(**members)
    job.advance(Event.FINISH)
    await job.recorder.finished(outcome)
    job.outcome.set_result(outcome)
    return job


# --- the outcome -----------------------------------------------------------------------------------------------------


async def test_a_success_is_the_callbacks_body_byte_for_byte() -> None:
    """As JSON, with the job's id, and `no-store`."""
    job = await over(DONE)
    answer = await answered(job)

    assert (answer.status, answer.body) == (200, b'{"cost": 1.10}')
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Job-Id"] == job.id
    assert answer.headers["Cache-Control"] == "no-store"
    assert {"Location", "Preference-Applied", "Idempotent-Replayed", "Traceparent"}.isdisjoint(answer.headers)


@pytest.mark.parametrize(("granular", "status"), [(False, 500), (True, 504)])
async def test_a_failure_is_a_problem_with_what_is_known_of_the_submission(*, granular: bool, status: int) -> None:
    """Its status is the same for all codes, or that of its code."""
    job = await over(OVERDUE)
    answer = await answered(job, granular=granular)

    document = problem(answer, "deadline-exceeded", status, submitted="yes")
    assert (document["job_id"], document["detail"]) == (job.id, "too late")


async def test_the_result_of_a_job_that_failed_is_in_the_problem() -> None:
    """Unchanged."""
    answer = await answered(await over(job_failed(b'{"state": "failed", "n": 1.0}')))

    assert problem(answer, "job-failed", 500)["result"] == {"state": "failed", "n": 1.0}
    assert b'"n": 1.0}' in answer.body


@pytest.mark.parametrize("outcome", [DONE, OVERDUE, job_failed(b"{}")])
@pytest.mark.parametrize("replayed", [False, True])
async def test_what_is_remembered_is_answered_as_it_was(outcome: Outcome, *, replayed: bool) -> None:
    """Byte for byte; a header says whether it is a replay."""
    job = await over(outcome)
    first, again = await answered(job), await answered(job.recorder.record, replayed=replayed)

    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers.get("Idempotent-Replayed") == ("true" if replayed else None)


async def test_a_client_waits_for_as_long_as_it_takes_where_it_prefers_nothing() -> None:
    """And gets the outcome as soon as there is one."""
    job = a_job()
    answering = asyncio.create_task(answered(job))
    await asyncio.sleep(1_000)
    assert not answering.done()

    job.outcome.set_result(DONE)

    assert (await answering).body == DONE.body


async def test_a_client_that_leaves_takes_its_job_with_it_nowhere() -> None:
    """A request that ends does not cancel its job; others may wait for it, too."""
    job = a_job()
    leaving, staying = (asyncio.create_task(answered(job)) for _ in range(2))
    await nothing_moves()
    leaving.cancel()
    await nothing_moves()
    assert not job.outcome.done()

    job.outcome.set_result(DONE)
    assert (await staying).status == 200


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"state": "running", "n": 1e400, "m": 0.10}', b'{"state": "running", "n": 1e400, "m": 0.10}'),
        (b"half=1", b"null"),
        (b"", b"null"),
    ],
)
async def test_progress_is_shown_byte_for_byte(body: bytes, shown: bytes) -> None:
    """Parsed and written again, a number may be `Infinity`, which is not JSON. What is not JSON is not shown."""
    job = a_job()
    job.advance(Event.ASSIGN)
    job.advance(Event.CONNECTED)
    state = '"body": null}'
    job.progress(state, body)
    answer = await answered(job, limit_s=0)

    assert b', "count": 1, "body": %b}, ' % shown in answer.body
    assert answer.document["progress"]["state"] == state


# --- not yet ---------------------------------------------------------------------------------------------------------


async def test_a_job_that_takes_longer_than_its_client_waits_is_a_202() -> None:
    """With the address and the time to ask again; the body is the status document."""
    job = a_job()
    job.recorder.queued()
    begun = time.monotonic()
    answer = await answered(job, limit_s=5, applied=b"wait=5")

    assert answer.status == 202
    assert time.monotonic() - begun == pytest.approx(5)
    assert answer.headers["Location"] == f"/jobs/{job.id}"
    assert answer.headers["Preference-Applied"] == "wait=5"
    assert (answer.headers["Retry-After"], answer.headers["Job-Id"]) == ("1", job.id)
    assert answer.document == status_document(job)


async def test_a_job_that_is_over_in_time_is_answered_at_once() -> None:
    """The client's limit is not a delay; `Preference-Applied` is sent anyway."""
    job = a_job()
    job.recorder.queued()
    begun = time.monotonic()
    asyncio.get_running_loop().call_later(2, job.outcome.set_result, DONE)
    answer = await answered(job, limit_s=5, applied=b"wait=5")

    assert answer.status == 200
    assert time.monotonic() - begun == pytest.approx(2)
    assert answer.headers["Preference-Applied"] == "wait=5"


async def test_no_id_is_given_away_before_it_will_be_found_again() -> None:
    """A 202 waits for the store: the job must be found even after a crash of this process."""
    store = FailingStore()
    store.hanging = True
    job = a_job(store=store)
    job.recorder.queued()
    answering = asyncio.create_task(answered(job, limit_s=0, applied=b"respond-async"))
    await asyncio.sleep(60)
    assert not answering.done()

    store.hanging = False

    answer = await answering
    assert answer.status == 202
    assert await store.by_id(job.id) is not None


async def test_a_job_that_ends_before_it_is_on_record_is_answered_with_its_outcome() -> None:
    """Then nothing is promised."""
    store = FailingStore()
    store.hanging = True
    job = a_job(store=store)
    job.recorder.queued()
    asyncio.get_running_loop().call_later(2, job.outcome.set_result, OVERDUE)

    assert (await answered(job, limit_s=0)).status == 500


async def test_a_record_without_an_outcome_is_a_202() -> None:
    """The job runs at another instance."""
    record = a_record(state=State.WAITING)
    answer = await answered(record, replayed=True)

    assert (answer.status, answer.headers["Location"]) == (202, f"/jobs/{record.id}")
    assert (answer.headers["Idempotent-Replayed"], answer.document["submitted"]) == ("true", "yes")


async def test_addresses_are_below_the_path_of_a_gateway() -> None:
    """So that clients can use them."""
    job = a_job()
    job.recorder.queued()
    answer = await answered(job, limit_s=0, root_path="/gateway")

    assert answer.headers["Location"] == f"/gateway/jobs/{job.id}"
    assert answer.document["result"] == f"/gateway/jobs/{job.id}/result"


@pytest.mark.parametrize("outcome", [DONE, OVERDUE, None])
async def test_a_traced_job_says_where_it_stands_in_its_clients_trace(outcome: Outcome | None) -> None:
    """In every answer about it, with the same context as the job server got."""
    job = a_job(traceparent=TRACE) if outcome is None else await over(outcome, traceparent=TRACE)
    job.recorder.queued()
    answer = await answered(job, limit_s=0)

    assert (answer.headers["Traceparent"], answer.headers["Traceresponse"]) == (TRACE, TRACE)


# --- the status document ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "state", "submitted"),
    [
        ((), "accepted", "no"),
        ((Event.ASSIGN,), "assigned", "no"),
        ((Event.ASSIGN, Event.CONNECTED), "submitting", "unknown"),
        ((Event.ASSIGN, Event.CONNECTED, Event.REFUSED), "assigned", "no"),
        ((Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ), "waiting", "yes"),
        ((Event.CALLBACK,), "waiting", "yes"),
    ],
)
async def test_a_job_in_flight_says_where_it_is(events: tuple[Event, ...], state: str, submitted: str) -> None:
    """By its own state, because its record may be behind; there is no outcome yet."""
    job = a_job()
    for event in events:
        job.advance(event)
    document = status_document(job)

    assert (document["id"], document["state"], document["submitted"]) == (job.id, state, submitted)
    assert {document[member] for member in ("finished_at", "outcome", "code", "detail", "earlier_answer")} == {None}
    assert (document["late"], document["result"]) == (False, f"/jobs/{job.id}/result")
    assert document["callbacks"] == {"accepted": 0, "early": 0, "late": 0, "duplicate": 0}


async def test_a_job_whose_callback_is_here_is_not_over_until_its_outcome_is() -> None:
    """A client that sees `outcome` can fetch it."""
    job = a_job()
    await job.recorder.callback(DONE.body, failed=False, early=True)
    job.call_back()
    document = status_document(job)

    assert (document["state"], document["outcome"], document["finished_at"]) == ("waiting", None, None)
    assert document["callbacks"] == {"accepted": 1, "early": 1, "late": 0, "duplicate": 0}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (DONE, ("succeeded", None, None, "yes")),
        (OVERDUE, ("failed", "deadline-exceeded", "too late", "yes")),
        (job_failed(b"{}"), ("failed", "job-failed", job_failed(b"{}").detail, "yes")),
        (Failed(code=Code.NO_WORKER, detail="none", submitted=Submitted.NO), ("failed", "no-worker", "none", "no")),
    ],
)
async def test_a_job_that_is_over_says_how_it_ended(outcome: Outcome, expected: tuple[str | None, ...]) -> None:
    """The document is the same right after the end and from the store."""
    job = await over(outcome)
    document = status_document(job)

    assert tuple(document[member] for member in ("outcome", "code", "detail", "submitted")) == expected
    assert (document["state"], document["late"], document["earlier_answer"]) == ("finished", False, None)
    assert document["finished_at"] is not None
    assert document == status_document(job.recorder.record)


@pytest.mark.parametrize(
    ("submitted", "state"),
    [(Submitted.NO, "accepted"), (Submitted.UNKNOWN, "submitting"), (Submitted.YES, "waiting")],
)
async def test_a_job_whose_end_is_being_recorded_is_still_running(submitted: Submitted, state: str) -> None:
    """No status shows an outcome before the waiting client gets it, nor an end without an outcome."""
    store = FailingStore()
    job = a_job(store=store)
    store.hanging = True
    job.advance(Event.FINISH)
    outcome = Failed(code=Code.WORKER_DIED, detail="gone", submitted=submitted)
    recording = asyncio.create_task(job.recorder.finished(outcome))
    await asyncio.sleep(0)

    document = status_document(job)

    assert (document["state"], document["submitted"]) == (state, submitted)
    assert (document["outcome"], document["finished_at"]) == (None, None)
    job.outcome.set_result(await recording)
    document = status_document(job)
    assert (document["state"], document["submitted"], document["outcome"]) == ("finished", submitted, "failed")


async def test_a_late_result_is_the_outcome_and_keeps_what_the_client_was_told() -> None:
    """Both are in the document."""
    document = status_document(finished(callback=DONE.body, failure=OVERDUE, duplicates=2))

    assert (document["outcome"], document["code"], document["late"]) == ("succeeded", None, True)
    assert document["earlier_answer"] == {"code": "deadline-exceeded", "detail": "too late", "submitted": "yes"}
    assert document["callbacks"] == {"accepted": 1, "early": 0, "late": 1, "duplicate": 2}
    assert document["submitted"] == "yes"


async def test_a_late_result_proves_a_submission_that_nobody_knew_of() -> None:
    """Whatever the earlier answer was."""
    told = Failed(code=Code.WORKER_DIED, detail="gone", submitted=Submitted.UNKNOWN)
    document = status_document(finished(callback=b"{}", says_failed=True, failure=told))

    assert (document["submitted"], document["code"]) == ("yes", "job-failed")
    assert document["earlier_answer"]["submitted"] == "unknown"


async def test_times_are_rfc_3339_in_utc() -> None:
    """To the millisecond."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC).timestamp()
    document = status_document(finished(accepted_at=moment, deadline_at=moment + 30, finished_at=moment + 0.5))

    assert document["accepted_at"] == "2026-01-02T03:04:05.678Z"
    assert document["deadline_at"] == "2026-01-02T03:04:35.678Z"
    assert document["finished_at"] == "2026-01-02T03:04:06.178Z"


async def test_only_so_many_requests_wait_for_jobs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that only prefers to wait gets the status at once; one that joins a job is refused."""
    monkeypatch.setattr("proxy.api.clients.answers._MAX_WAITS", 3)
    answers, job = Answers(Instance().elsewhere, lambda: None, granular_errors=False), a_job()
    job.recorder.stored.set_result(None)
    waiting = [asyncio.create_task(answers._wait(job, None, joined=True)) for _ in range(3)]  # noqa: SLF001
    await eventually(lambda: answers._waits == 3)  # noqa: SLF001

    assert await answers._wait(job, 30, joined=True) is None  # noqa: SLF001
    with pytest.raises(AdmissionError) as refused:
        await answers._wait(job, None, joined=True)  # noqa: SLF001
    job.outcome.set_result(Succeeded(body=b"{}"))

    assert (refused.value.code, refused.value.fate_known) == (Code.OVERLOADED, False)
    assert await asyncio.gather(*waiting) == [Succeeded(body=b"{}")] * 3
    assert await answers._wait(job, None, joined=True) == Succeeded(body=b"{}")  # noqa: SLF001
    assert answers._waits == 0  # noqa: SLF001


@pytest.mark.parametrize("is_here", [True, False], ids=["in flight here", "at another instance"])
async def test_who_leaves_waits_for_a_job_of_others_no_longer(*, is_here: bool) -> None:
    """Its place is free at once, and nothing of it is left; the job goes on."""
    answers, lost = Answers(Instance().elsewhere, lambda: None, granular_errors=False), asyncio.Future[None]()
    job, record = a_job(), a_record(state=State.WAITING, owner="another", deadline_at=time.time() + 60)
    scope = request_scope("GET", f"/jobs/{job.id}/result", state={"lost": lost})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    found = job if is_here else record
    waiting = asyncio.create_task(answers.of_job(scope, send, found, limit_s=50, applied=b"wait=50", joined=True))
    await eventually(lambda: answers._waits == 1)  # noqa: SLF001
    begun = time.monotonic()
    lost.set_result(None)

    with pytest.raises(ClientGoneError):
        await waiting
    assert time.monotonic() - begun == pytest.approx(0)
    await nothing_moves()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert answers._waits == 0  # noqa: SLF001
    assert not sent
    assert not job.outcome.done()


async def test_who_leaves_waits_for_its_own_job_to_the_end() -> None:
    """Its answer is given to nobody, but what becomes of the job is nobody's to change."""
    job, lost = a_job(), asyncio.Future[None]()
    lost.set_result(None)
    answers = Answers(Instance().elsewhere, lambda: None, granular_errors=False)
    waiting = asyncio.create_task(answers._wait(job, None, joined=False, lost=lost))  # noqa: SLF001
    await nothing_moves()
    assert not waiting.done()
    job.outcome.set_result(DONE)
    assert await waiting == DONE


async def test_those_who_wait_for_one_job_are_answered_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds may have joined it; otherwise all of their answers would be one iteration of the event loop."""
    taken = 0

    async def take() -> None:
        nonlocal taken
        taken += 1

    monkeypatch.setattr(turns, "take", take)
    answers, job = Answers(Instance().elsewhere, lambda: None, granular_errors=False), a_job()
    waiting = [asyncio.create_task(answers._wait(job, None, joined=True)) for _ in range(3)]  # noqa: SLF001
    await eventually(lambda: answers._waits == 3)  # noqa: SLF001
    job.outcome.set_result(DONE)
    assert await asyncio.gather(*waiting) == [DONE] * 3
    assert taken == 3


async def test_where_descriptors_are_short_nobody_waits_for_jobs_of_others() -> None:
    """Its connection would take the descriptor that the callback needs."""

    def none_left() -> None:
        raise AdmissionError(Code.OVERLOADED, "the machine is short of file descriptors")

    answers, job = Answers(Instance().elsewhere, none_left, granular_errors=False), a_job()
    job.recorder.stored.set_result(None)

    assert await answers._wait(job, 30, joined=True) is None  # noqa: SLF001
    with pytest.raises(AdmissionError, match="descriptors"):
        await answers._wait(job, None, joined=True)  # noqa: SLF001
