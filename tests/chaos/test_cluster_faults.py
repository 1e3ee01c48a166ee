"""What holds with several instances on one database, whatever fails: each cell of the table in docs/reliability.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from cluster.postgresql import PostgreSQL
from proxy.store.record import Record
from shared.lifecycle import Submitted
from tests.chaos.support.cluster import TIMEOUT_S, Client, Cluster, Node, clustered
from tests.support.http import Answer, fetch, new_ref, problem
from tests.support.waiting import IN_VAIN_S, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cluster")]

#: How often to look into the database, each time over a new connection.
_LOOK_S: Final = 0.1
_RESULT: Final = b'{"state": "completed", "by": "the test"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(own_postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three instances; every test leaves them as it found them."""
    folder = tmp_path_factory.mktemp("cluster")
    async with clustered(own_postgresql, own_postgresql.url(), folder, WORKER_SPARES="2") as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(cluster: Cluster) -> AsyncIterator[ClientSession]:
    """A client for these tests."""
    connector = TCPConnector(force_close=True, limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=TIMEOUT_S + IN_VAIN_S)) as session:
        yield session


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _well(cluster: Cluster, session: ClientSession) -> AsyncIterator[None]:
    """Whatever a test does, the next one finds every instance ready."""
    yield
    for node in cluster.nodes:
        node.line.mend()
        node.resume()
    if not cluster.postgresql.pids:
        await asyncio.to_thread(cluster.postgresql.start)
    await eventually(lambda: _all_ready(cluster, session), every_s=_LOOK_S)


async def _all_ready(cluster: Cluster, session: ClientSession) -> bool:
    return all([(await fetch(session, "GET", f"{node.url}/readyz")).status == 200 for node in cluster.nodes])


def _post(session: ClientSession, url: str, key: str = "", prefer: str = "", **job: object) -> asyncio.Task[Answer]:
    headers = ({"Idempotency-Key": f'"{key}"'} if key else {}) | ({"Prefer": prefer} if prefer else {})
    return asyncio.create_task(fetch(session, "POST", f"{url}/queueJob", json=job, headers=headers))


def _job(**fields: object) -> dict[str, Any]:
    ref = new_ref()
    return {"account": ref, "ref": ref, "fault": "never", **fields}


async def _token(cluster: Cluster, session: ClientSession, job: dict[str, Any]) -> str:
    """Return the token of the job's callback once the record says that the job server has the job."""
    await eventually(lambda: any(found.submitted is Submitted.YES for found in _records(cluster, job)), every_s=_LOOK_S)
    (entry,) = await cluster.submissions(session, job["ref"])
    return str(entry["callback"]).rpartition("/")[2]


async def _call_back(session: ClientSession, node: Node, token: str) -> Answer:
    return await fetch(session, "POST", f"{node.url}/callback/{token}", data=_RESULT)


def _is_result(answer: Answer) -> bool:
    return (answer.status, answer.body) == (200, _RESULT)


def _records(cluster: Cluster, job: dict[str, Any]) -> list[Record]:
    return [record for record in cluster.records() if record.labels.get("account") == job["account"]]


def _record(cluster: Cluster, job: dict[str, Any]) -> Record:
    (found,) = _records(cluster, job)
    return found


# --- nothing fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_callback_at_any_instance_reaches_the_client(cluster: Cluster, session: ClientSession, at: int) -> None:
    """At the instance where the client waits, and at the others; a repeated one is a duplicate everywhere."""
    job = _job()
    answer = _post(session, cluster.nodes[0].url, **job)
    token = await _token(cluster, session, job)
    assert (await _call_back(session, cluster.nodes[at], token)).document == {"status": "accepted"}
    assert _is_result(await answer)
    for node in cluster.nodes:
        assert (await _call_back(session, node, token)).document == {"status": "duplicate"}


async def test_every_instance_answers_for_every_job(cluster: Cluster, session: ClientSession) -> None:
    """Its status, its result, waiting for it, and its key, which joins while the job runs and replays afterwards."""
    first, second, third = cluster.nodes
    job, key = _job(), new_ref()
    began = await _post(session, first.url, key, "respond-async", **job)
    assert began.status == 202
    token = await _token(cluster, session, job)
    path = f"/jobs/{began.headers['Job-Id']}"
    assert (await fetch(session, "GET", f"{second.url}{path}")).document["state"] == "waiting"
    joined = _post(session, third.url, key, **job)
    waited = asyncio.create_task(fetch(session, "GET", f"{second.url}{path}/result", headers={"Prefer": "wait=5"}))
    problem(await _post(session, second.url, key, **job | {"other": True}), "idempotency-key-reused", 422)
    await _call_back(session, second, token)
    assert _is_result(await joined)
    assert _is_result(await waited)
    for node in cluster.nodes:
        replayed = await _post(session, node.url, key, **job)
        assert _is_result(replayed)
        assert replayed.headers["Job-Id"] == began.headers["Job-Id"]
    assert len(await cluster.submissions(session, job["ref"])) == 1


async def test_every_instance_cancels_every_job(cluster: Cluster, session: ClientSession) -> None:
    """Everyone who waits for it, at any instance, is told the same, and the database says so as well."""
    first, second, third = cluster.nodes
    job, key = _job(), new_ref()
    waits = _post(session, first.url, key, **job)
    await _token(cluster, session, job)
    joined = _post(session, third.url, key, **job)
    record = _record(cluster, job)
    assert (await fetch(session, "DELETE", f"{second.url}/jobs/{record.id}")).status == 200
    for answer in (await waits, await joined):
        assert problem(answer, "cancelled", answer.status, "yes")["job_id"] == record.id
    assert _record(cluster, job).submitted is Submitted.YES


# --- an instance fails -----------------------------------------------------------------------------------------------


async def test_an_instance_that_is_killed_with_its_disk_takes_no_job_along(
    cluster: Cluster, session: ClientSession
) -> None:
    """Its disk holds nothing that is needed. Another instance accepts the callback; a client's retry joins at once."""
    first, second, third = cluster.nodes
    job, key = _job(), new_ref()
    broken = _post(session, first.url, key, **job)
    token = await _token(cluster, session, job)
    await asyncio.to_thread(first.restarts.kill)
    try:
        assert (await asyncio.wait({broken}))[0]
        assert broken.exception() is not None
        joined = _post(session, second.url, key, **job)
        assert (await _call_back(session, third, token)).document == {"status": "accepted"}
        assert _is_result(await joined)
    finally:
        await asyncio.to_thread(first.restarts.start)
    assert _is_result(await _post(session, first.url, key, **job))
    assert len(await cluster.submissions(session, job["ref"])) == 1


async def test_what_an_instance_leaves_behind_is_taken_over_and_ends(cluster: Cluster, session: ClientSession) -> None:
    """No callback comes: another instance waits until the deadline, and its answer is true."""
    first = cluster.nodes[0]
    job = _job()
    broken = _post(session, first.url, **job)
    await _token(cluster, session, job)
    owner = _record(cluster, job).owner
    await asyncio.to_thread(first.restarts.restart)
    await asyncio.wait({broken})
    assert broken.exception() is not None
    await eventually(lambda: _record(cluster, job).owner != owner, every_s=_LOOK_S)
    await eventually(lambda: _record(cluster, job).failure, every_s=_LOOK_S)
    failure = _record(cluster, job).failure
    assert failure is not None
    assert (failure.code, failure.submitted) == ("interrupted", "yes")
    assert len(await cluster.submissions(session, job["ref"])) == 1


async def test_an_instance_that_wakes_up_says_what_is_on_record(cluster: Cluster, session: ClientSession) -> None:
    """It slept past its lease and its jobs' deadlines; others ended them meanwhile, or accepted their callbacks."""
    first, second, _ = cluster.nodes
    jobs = [_job(), _job()]
    answers = [_post(session, first.url, **job) for job in jobs]
    tokens = [await _token(cluster, session, job) for job in jobs]
    owner = _record(cluster, jobs[0]).owner
    first.pause()
    assert (await _call_back(session, second, tokens[0])).document == {"status": "accepted"}
    await eventually(lambda: _record(cluster, jobs[1]).owner != owner, every_s=_LOOK_S)
    await eventually(lambda: _record(cluster, jobs[1]).failure, every_s=_LOOK_S)
    woken_at = _record(cluster, jobs[1]).deadline_at + 2  # so that it was certainly stopped
    await eventually(lambda: time.time() > woken_at)
    first.resume()
    assert _is_result(await answers[0])
    problem(await answers[1], "interrupted", 500, "yes")
    for job in jobs:
        assert len(await cluster.submissions(session, job["ref"])) == 1


async def test_instances_are_replaced_one_after_the_other_and_no_client_fails(
    cluster: Cluster, session: ClientSession
) -> None:
    """As in a rolling upgrade. Each client gets its result, if it retries under its key.

    It may have to: the outcome of what nginx sends over a kept connection just as the instance exits is unknown.
    """
    done = asyncio.Event()
    answers: list[Answer] = []

    async def keep_posting() -> None:
        while not done.is_set():
            client = Client(session, cluster.queue_job, _job(fault="none", duration=0.2), new_ref())
            answer = await client.run()
            assert answer is not None
            answers.append(answer)

    clients = [asyncio.create_task(keep_posting()) for _ in range(4)]
    for node in cluster.nodes:
        assert await asyncio.to_thread(node.restarts.proxy.stop) == 0
        await asyncio.to_thread(node.restarts.start)
    done.set()
    await asyncio.gather(*clients)
    assert {answer.status for answer in answers} == {200}, [answer for answer in answers if answer.status != 200]


# --- the database, or the way to it, fails ---------------------------------------------------------------------------


async def test_while_the_database_is_away_everybody_gets_a_true_answer(
    cluster: Cluster, session: ClientSession
) -> None:
    """New jobs are refused; those in flight keep their deadline; a callback that can reach its client does."""
    first, second, _ = cluster.nodes
    overdue, at_its_owner, elsewhere = jobs = [_job(), _job(), _job()]
    answers = [_post(session, first.url, **job) for job in jobs]
    tokens = [await _token(cluster, session, job) for job in jobs]
    await asyncio.to_thread(cluster.postgresql.kill)
    problem((await _call_back(session, first, tokens[1])), "journal-unavailable", 503)
    assert _is_result(await answers[1])
    problem((await _call_back(session, second, tokens[2])), "journal-unavailable", 503)
    for answer in (await answers[0], await answers[2]):
        problem(answer, "deadline-exceeded", 500, "yes")

    async def refused() -> bool:
        answer = await _post(session, second.url, **_job(fault="none"))
        return bool(answer.status == 503 and problem(answer, "journal-unavailable", 503, "no"))

    await eventually(refused, every_s=_LOOK_S)
    assert (await fetch(session, "GET", f"{second.url}/readyz")).status == 503

    await asyncio.to_thread(cluster.postgresql.start)
    await eventually(lambda: _all_ready(cluster, session), every_s=_LOOK_S)
    assert (await _post(session, cluster.url, **_job(fault="none"))).status == 200
    assert (await _call_back(session, second, tokens[2])).status == 200
    await eventually(lambda: _record(cluster, at_its_owner).callback == _RESULT, every_s=_LOOK_S)
    await eventually(lambda: _record(cluster, elsewhere).late, every_s=_LOOK_S)
    await eventually(lambda: _record(cluster, overdue).failure, every_s=_LOOK_S)
    # The note about the reply did not wait for the disk: a server that is killed may have lost it.
    assert _record(cluster, overdue).submitted is not Submitted.NO


async def test_an_instance_that_is_cut_off_refuses_jobs_and_delivers_what_reaches_it(
    cluster: Cluster, session: ClientSession
) -> None:
    """Its connection to the database passes nothing any more. Through nginx, clients are served by the others."""
    first, second, _ = cluster.nodes
    here, elsewhere = _job(), _job()
    answers = [_post(session, first.url, **job) for job in (here, elsewhere)]
    tokens = [await _token(cluster, session, job) for job in (here, elsewhere)]
    first.line.stall()
    assert (await _call_back(session, second, tokens[1])).status == 200
    problem(await _call_back(session, first, tokens[0]), "journal-unavailable", 503)
    assert _is_result(await answers[0])
    assert (await answers[1]).document["submitted"] == "yes"
    problem(await _post(session, first.url, **_job(fault="none")), "journal-unavailable", 503, "no")
    # No waiting for results: a callback that nginx gives to the first instance is held there for some seconds.
    through = [await _post(session, cluster.url, prefer="respond-async", **_job(fault="none")) for _ in range(6)]
    assert [answer.status for answer in through] == [202] * 6, through
    first.line.mend()
    await eventually(lambda: _record(cluster, here).callback == _RESULT, every_s=_LOOK_S)
    assert _record(cluster, elsewhere).callback == _RESULT
    for job in (here, elsewhere):
        assert len(await cluster.submissions(session, job["ref"])) == 1
    await eventually(
        lambda: all(cluster.record(answer.headers["Job-Id"]).callback for answer in through), every_s=_LOOK_S
    )
