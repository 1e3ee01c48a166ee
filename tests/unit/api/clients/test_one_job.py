"""The routes of one job: its status, its result, its cancellation; and the moments in which it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.jobs.job import Job, new_id
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed, Succeeded
from tests.support.http import Answer, problem
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT
from tests.support.whole_app import DONE, WholeApp


@pytest.fixture
async def job(app: WholeApp) -> Job:
    """A job that the job server has."""
    return await app.waiting()


async def test_a_job_is_found_in_flight_and_in_the_store(app: WholeApp, job: Job) -> None:
    """At every moment."""
    assert (await app.status(job))["state"] == "waiting"
    app.store.hanging = True
    await time_passes(29)
    statuses = []
    while job.id in {each.id for each in app.parts.core.in_flight}:
        statuses.append(await app.status(job))
        await time_passes(0.1)
    app.store.hanging = False

    assert {status["outcome"] for status in statuses} == {None}
    assert (await app.status(job))["code"] == "deadline-exceeded"


@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/result"])
@pytest.mark.parametrize("job_id", ["0" * 32, "1", "..", "%00", "x" * 5_000])
async def test_a_job_that_is_not_known_is_not_found(app: WholeApp, path: str, job_id: str) -> None:
    """It may have been forgotten, so the answer does not say whether it ran."""
    problem(await app.ask("GET", path.format(job_id)), "not-found", 404, submitted="unknown")


async def test_a_key_is_needed_where_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each route; the answer reveals nothing of the job, and nothing happens to it."""
    app = WholeApp(monkeypatch, API_KEYS="one")
    job = await app.waiting({"Authorization": "Bearer one"})
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
        problem(await app.ask(method, f"/jobs/{job.id}{path}"), "unauthorized", 401, submitted="unknown")

    assert not job.cancelled.done()
    await app.close()


@pytest.mark.parametrize("job_id", ["\0", "x" * 32, "A" * 32, "0" * 31, "0" * 33])
async def test_what_is_no_id_is_not_looked_up(app: WholeApp, job_id: str) -> None:
    """A store may refuse to be asked, as PostgreSQL does for a NUL."""
    app.store.failing = True
    for method, route in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
        problem(await app.ask(method, f"/jobs/{job_id}{route}"), "not-found", 404, "unknown")


async def test_nothing_is_said_of_a_job_that_nobody_can_look_up(app: WholeApp, job: Job) -> None:
    """A job in flight is found without the store."""
    app.store.failing = True

    assert (await app.status(job))["state"] == "waiting"
    other = f"/jobs/{new_id()}"
    for method, path in (("GET", other), ("DELETE", other), ("GET", f"{other}/result")):
        problem(await app.ask(method, path), "journal-unavailable", 503, submitted="unknown")


# --- the result ------------------------------------------------------------------------------------------------------


async def test_whoever_asks_for_a_result_is_not_kept_waiting(app: WholeApp, job: Job) -> None:
    """202 until there is one; then the answer to the original request, as often as it is asked for."""
    answer = await app.ask("GET", f"/jobs/{job.id}/result")
    assert (answer.status, answer.headers["Retry-After"]) == (202, "1")
    await app.call_back(job)
    await job.outcome

    answers = [await app.ask("GET", f"/jobs/{job.id}/result") for _ in range(2)]

    assert [(answer.status, answer.body) for answer in answers] == [(200, DONE)] * 2


@pytest.mark.parametrize(("wait_s", "status"), [(5, 202), (60, 500)])
async def test_whoever_prefers_to_wait_for_a_result_does(app: WholeApp, job: Job, wait_s: int, status: int) -> None:
    """For that time, or until there is one."""
    begun = time.monotonic()
    answer = await app.ask("GET", f"/jobs/{job.id}/result", headers={"Prefer": f"wait={wait_s}"})

    assert (answer.status, answer.headers["Preference-Applied"]) == (status, f"wait={wait_s}")
    assert time.monotonic() - begun == pytest.approx(min(wait_s, 30), abs=0.01)


async def test_a_late_result_is_there_to_be_fetched(app: WholeApp, job: Job) -> None:
    """Its client was answered without a result; now both are known."""
    problem(await app.ask("GET", f"/jobs/{job.id}/result", headers={"Prefer": "wait=60"}), "deadline-exceeded", 500)
    await app.call_back(job)

    assert (await app.ask("GET", f"/jobs/{job.id}/result")).body == DONE
    status = await app.status(job)
    assert (status["late"], status["outcome"]) == (True, "succeeded")
    assert status["earlier_answer"]["code"] == "deadline-exceeded"


# --- cancellation ----------------------------------------------------------------------------------------------------


async def test_a_job_is_cancelled_and_whoever_waits_for_it_hears_so(app: WholeApp) -> None:
    """DELETE answers when the job has ended; a second one gets the same answer."""
    posting = app.posting()
    await nothing_moves()
    job = app.job
    app.stepped.tell(job, *SUBMIT)
    await nothing_moves()

    answers = [await app.ask("DELETE", f"/jobs/{job.id}") for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].document == answers[1].document
    assert (answers[0].document["code"], answers[0].document["submitted"]) == ("cancelled", "yes")
    problem(await posting, "cancelled", 500, submitted="yes")


async def test_a_job_that_is_over_is_not_cancelled_any_more(app: WholeApp, job: Job) -> None:
    """DELETE answers with its outcome."""
    await app.call_back(job)
    await job.outcome
    answer = await app.ask("DELETE", f"/jobs/{job.id}")

    assert (answer.document["outcome"], answer.document["code"]) == ("succeeded", None)


@pytest.mark.parametrize("ahead", range(-8, 9))
@pytest.mark.parametrize("end", ["callback", "failure", "deadline"])
async def test_a_job_is_cancelled_in_the_round_in_which_it_ends(app: WholeApp, job: Job, end: str, ahead: int) -> None:
    """It ends `ahead` iterations of the event loop before the cancellation; answers are complete and consistent."""
    begin_in_s = job.deadline - time.monotonic() if end == "deadline" else 0

    async def ends() -> None:
        await in_rounds(begin_in_s, -ahead)
        if end == "callback":
            await app.call_back(job)
        elif end == "failure":
            app.stepped.tell(job, Failed(code=Code.WORKER_DIED, detail="gone", submitted=Submitted.YES))

    async def is_deleted() -> Answer:
        await in_rounds(begin_in_s, ahead)
        return await app.ask("DELETE", f"/jobs/{job.id}")

    _, told = await asyncio.gather(ends(), is_deleted())
    outcome = await job.outcome
    await nothing_moves()

    status = await app.status(job)
    client_was_told = None if isinstance(outcome, Succeeded) else str(outcome.code)
    assert told.status == 200
    assert (told.document["submitted"], status["submitted"], len(app.parts.core.in_flight)) == ("yes", "yes", 0)
    assert told.document["code"] in {client_was_told, None}
    assert client_was_told == (status["earlier_answer"]["code"] if status["late"] else status["code"])


async def in_rounds(seconds: float, rounds: int) -> None:
    """Return after that time, plus a number of iterations of the event loop."""
    await asyncio.sleep(seconds)
    for _ in range(rounds):
        await asyncio.sleep(0)


async def test_a_job_that_waits_for_a_worker_is_cancelled_before_it_was_submitted(app: WholeApp) -> None:
    """And may be submitted again."""
    job = await app.begun()
    answer = await app.ask("DELETE", f"/jobs/{job.id}")

    assert (answer.document["code"], answer.document["submitted"]) == ("cancelled", "no")
    problem(await app.ask("GET", f"/jobs/{job.id}/result"), "cancelled", 500, submitted="no")


async def test_a_cancellation_is_answered_though_the_store_hangs(app: WholeApp, job: Job) -> None:
    """After the time that recording it may take."""
    app.store.hanging = True
    answer = await app.ask("DELETE", f"/jobs/{job.id}")

    assert (answer.status, answer.document["code"]) == (200, "cancelled")
