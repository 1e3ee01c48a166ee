"""The front end is killed while a job is in each of several states, and starts again on the same journal."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

#: They share two proxies, which would be started once for each process that runs one of them.
pytestmark = pytest.mark.xdist_group("restarts")
RESULT = b'{"state": "completed",  "sum": 0.10}'
ASYNC = {"Prefer": "respond-async"}


class Kept(Restarts):
    """What one test has started is where the next one begins.

    The kernel ends a proxy with the thread that started it (`with_us`), so this one stays until the end.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        """Start the first one."""
        self._thread = ThreadPoolExecutor(1)
        super().__init__(folder, **settings)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._thread.shutdown()

    async def killed_and_started(self) -> None:
        """Kill the front end and start the next one, while the event loop goes on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.restart)

    async def started(self) -> None:
        """Start the next one, while the event loop goes on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.start)


@pytest.fixture(scope="module")
def restarts(tmp_path_factory: pytest.TempPathFactory, job_server_port: int) -> Iterator[Kept]:
    """A proxy."""
    url = f"http://127.0.0.1:{job_server_port}/start"
    with Kept(tmp_path_factory.mktemp("restarts"), JOB_SERVER_URL=url) as restarts:
        yield restarts


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, job_server_port: int) -> Iterator[Kept]:
    """The same with a job timeout of some seconds."""
    url = f"http://127.0.0.1:{job_server_port}/start"
    with Kept(tmp_path_factory.mktemp("hasty"), JOB_SERVER_URL=url, JOB_TIMEOUT="4") as restarts:
        yield restarts


@pytest.fixture
async def job_server_here(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server for this test, which stays up while the proxy is down."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0, callback_retries=50)), port=job_server_port))


async def status(client: ClientSession, restarts: Restarts, job_id: str) -> Answer:
    """Return the job's status document."""
    return await fetch(client, "GET", f"{restarts.url}/jobs/{job_id}")


async def outcome(client: ClientSession, restarts: Restarts, job_id: str, wait_s: int = 10) -> Answer:
    """Wait for the job's result and return it."""
    return await fetch(client, "GET", f"{restarts.url}/jobs/{job_id}/result", headers={"Prefer": f"wait={wait_s}"})


async def post_async(client: ClientSession, restarts: Restarts, *, ref: str, fault: str, key: str | None = None) -> str:
    """Post a job without waiting for it; return its id."""
    headers = ASYNC | ({"Idempotency-Key": key} if key else {})
    answer = await post_job(client, restarts.queue_job, ref=ref, fault=fault, headers=headers)
    assert answer.status == 202
    return answer.headers["Job-Id"]


async def in_state(client: ClientSession, restarts: Restarts, job_id: str, state: str) -> None:
    """Wait until the job is in this state."""

    async def is_there() -> bool:
        return bool((await status(client, restarts, job_id)).document["state"] == state)

    await eventually(is_there)


async def recorded(restarts: Restarts, job_id: str, state: str) -> None:
    """Wait until the journal says that the job is in this state."""
    with closing(sqlite3.connect(f"file:{restarts.journal}?mode=ro", uri=True)) as journal:
        row = journal.execute
        await eventually(lambda: row("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone() == (state,))


async def test_a_job_that_no_worker_had_was_not_submitted(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """It is interrupted and may be retried, and its key runs it again."""
    ref = new_ref()
    restarts.restart(WORKER_SPARES="0")
    (fork_server,) = restarts.proxy.descendants()
    fork_server.suspend()  # no worker is made
    job_id = await post_async(client, restarts, ref=ref, fault="none", key=ref)

    restarts.proxy.signal(signal.SIGKILL)
    fork_server.resume()
    await restarts.killed_and_started()
    answer = await outcome(client, restarts, job_id)
    again = await post_job(client, restarts.queue_job, ref=ref, fault="none", headers={"Idempotency-Key": ref})

    problem(answer, "interrupted", 500, "no")
    assert (again.status, again.headers["Job-Id"] != job_id) == (200, True)
    assert len(job_server_here.submissions(ref)) == 1


async def test_a_callback_that_arrives_at_the_new_process_is_the_answer(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """Whoever asks by id or by key gets it, waiting or not; nothing is submitted again."""
    ref = new_ref()
    job_id = await post_async(client, restarts, ref=ref, fault="never", key=ref)
    await recorded(restarts, job_id, "waiting")

    await restarts.killed_and_started()
    document = (await status(client, restarts, job_id)).document
    assert (document["state"], document["submitted"], document["outcome"]) == ("waiting", "yes", None)
    joined = asyncio.create_task(
        post_job(client, restarts.queue_job, ref=ref, fault="never", headers={"Idempotency-Key": ref})
    )
    by_id = asyncio.create_task(outcome(client, restarts, job_id))
    callback = await fetch(client, "POST", job_server_here.callback_url(ref), data=RESULT)

    assert callback.document == {"status": "accepted"}
    assert ((await joined).status, (await joined).body, (await by_id).body) == (200, RESULT, RESULT)
    assert (await joined).headers["Idempotent-Replayed"] == "true"
    assert len(job_server_here.submissions(ref)) == 1


async def test_a_job_whose_fate_is_unknown_stays_open_until_its_deadline(
    client: ClientSession, hasty: Kept, job_server_here: JobServer
) -> None:
    """The submission was sent and no reply came. It is not sent again, and no answer may say that it did not run."""
    ref = new_ref()
    job_id = await post_async(client, hasty, ref=ref, fault="hang", key=ref)
    await in_state(client, hasty, job_id, "submitting")

    await hasty.killed_and_started()
    answer = await outcome(client, hasty, job_id)
    again = await post_job(client, hasty.queue_job, ref=ref, fault="hang", headers={"Idempotency-Key": ref})

    problem(answer, "interrupted", 500, "unknown")
    assert (again.status, again.body) == (500, answer.body)
    assert len(job_server_here.submissions(ref)) == 1


async def test_a_callback_proves_that_a_job_of_unknown_fate_ran(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """It is accepted and answers the job."""
    ref = new_ref()
    job_id = await post_async(client, restarts, ref=ref, fault="hang")
    await in_state(client, restarts, job_id, "submitting")
    await eventually(lambda: job_server_here.submissions(ref))

    await restarts.killed_and_started()
    callback = await fetch(client, "POST", job_server_here.callback_url(ref), data=RESULT)

    assert callback.document == {"status": "accepted"}
    assert (await outcome(client, restarts, job_id)).body == RESULT


async def test_without_a_callback_a_submitted_job_is_interrupted_and_a_late_one_is_kept(
    client: ClientSession, hasty: Kept, job_server_here: JobServer
) -> None:
    """The deadline is unchanged; the token stays valid after it."""
    ref = new_ref()
    job_id = await post_async(client, hasty, ref=ref, fault="never")
    await recorded(hasty, job_id, "waiting")

    await hasty.killed_and_started()
    answer = await outcome(client, hasty, job_id)
    callback = await fetch(client, "POST", job_server_here.callback_url(ref), data=RESULT)
    document = (await status(client, hasty, job_id)).document

    problem(answer, "interrupted", 500, "yes")
    assert callback.document == {"status": "late"}
    assert (document["outcome"], document["late"]) == ("succeeded", True)
    assert document["earlier_answer"]["code"] == "interrupted"
    assert (await outcome(client, hasty, job_id)).body == RESULT


async def test_a_job_whose_deadline_passed_while_nobody_was_there_is_interrupted(
    client: ClientSession, hasty: Kept, job_server_here: JobServer
) -> None:
    """At once when the front end is back."""
    ref = new_ref()
    job_id = await post_async(client, hasty, ref=ref, fault="never")
    await recorded(hasty, job_id, "waiting")

    deadline = datetime.fromisoformat((await status(client, hasty, job_id)).document["deadline_at"])
    await asyncio.to_thread(hasty.kill)
    await eventually(lambda: datetime.now(UTC) > deadline)
    await hasty.started()

    problem(await outcome(client, hasty, job_id, wait_s=1), "interrupted", 500, "yes")


async def test_every_outcome_is_answered_again_after_a_restart(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """Byte for byte, by key and by id; its token is still known."""
    first = {}
    for fault in ("none", "failed", "garbage"):
        ref = new_ref()
        key = {"Idempotency-Key": ref}
        first[fault, ref] = await post_job(client, restarts.queue_job, ref=ref, fault=fault, headers=key)

    await restarts.killed_and_started()
    for (fault, ref), answer in first.items():
        key = {"Idempotency-Key": ref}
        by_key = await post_job(client, restarts.queue_job, ref=ref, fault=fault, headers=key)
        by_id = await outcome(client, restarts, answer.headers["Job-Id"])
        callback = await fetch(client, "POST", job_server_here.callback_url(ref), data=RESULT)

        assert (by_key.status, by_key.body) == (by_id.status, by_id.body) == (answer.status, answer.body)
        assert callback.document == {"status": "late" if fault == "garbage" else "duplicate"}
        assert len(job_server_here.submissions(ref)) == 1


async def test_an_open_job_can_be_cancelled_after_a_restart(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """With what is known about its submission."""
    ref = new_ref()
    job_id = await post_async(client, restarts, ref=ref, fault="never")
    await recorded(restarts, job_id, "waiting")

    await restarts.killed_and_started()
    cancelled = await fetch(client, "DELETE", f"{restarts.url}/jobs/{job_id}")

    assert (cancelled.document["code"], cancelled.document["submitted"]) == ("cancelled", "yes")


async def test_a_submission_under_way_is_finished_by_its_worker(
    client: ClientSession, restarts: Kept, job_server_here: JobServer
) -> None:
    """The front end dies; the worker finishes what it began and exits: the submission's outcome becomes known."""
    ref = new_ref()
    holder = asyncio.create_task(post_job(client, job_server_here.url, account=ref, wait=True, duration=60))
    await eventually(lambda: job_server_here.ledger.submissions)
    headers = {"Idempotency-Key": ref}
    accepted = await post_job(client, restarts.queue_job, ref=ref, account=ref, headers=headers | ASYNC)
    await in_state(client, restarts, accepted.headers["Job-Id"], "submitting")
    assert job_server_here.submissions(ref) == [], "it is served when the account's other connection is closed"

    restarts.proxy.signal(signal.SIGKILL)
    holder.cancel()
    await restarts.killed_and_started()
    again = await post_job(client, restarts.queue_job, ref=ref, account=ref, headers=headers)

    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.document["id"] == job_server_here.submission(ref).id
    assert restarts.leftovers() == []
