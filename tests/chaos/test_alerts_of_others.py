"""The alerts about other systems that a proxy uses, a queue or a shared database: see test_alerts.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from cluster.postgresql import PostgreSQL
from cluster.sqs import SqsStandIn
from jobserver.app import create_app
from jobserver.options import Options
from proxy.sqs.consumer import POLL_S
from tests.chaos.support.hasty_instance import HastyInstance
from tests.chaos.support.operated import LOOK_S, Operated, check
from tests.chaos.support.processes import FaultyProxy
from tests.chaos.support.prometheus import Scrapes
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.queues import SomeQueues
from tests.support.waiting import eventually

_needs_promtool: Final = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing (Debian package: prometheus)"
)
_MAX_JOBS: Final = 4

Queued = Callable[[Operated[FaultyProxy], SomeQueues], AsyncIterator[str | None]]
_of_queue: dict[str, Queued] = {}


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server inside the test."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0)), port=job_server_port))


# --- a queue ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sqs() -> Iterator[SqsStandIn]:
    """A server for this module: its queues come and go."""
    with SqsStandIn() as server:
        yield server


@pytest.fixture(scope="module")
def faulty_proxy(
    sqs: SqsStandIn, job_server_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyProxy]:
    """A proxy that takes jobs from a queue, with little capacity."""
    folder = tmp_path_factory.mktemp("proxy")
    settings = sqs.make_queues() | {
        "JOB_SERVER_URL": f"http://127.0.0.1:{job_server_port}/start",
        "JOURNAL": str(folder / "journal"),
        "MAX_JOBS": str(_MAX_JOBS),
        "WORKER_SPARES": "2",
        "SUBMIT_RETRIES": "0",
    }
    with FaultyProxy(folder, stdout=None, **settings) as proxy:
        proxy.wait_until_listening()
        yield proxy


def _trouble(alert: str) -> Callable[[Queued], Queued]:
    def note(trouble: Queued) -> Queued:
        _of_queue[alert] = trouble
        return trouble

    return note


@_trouble("AsyncJobProxyQueueUnavailable")
@_trouble("AsyncJobProxyQueueErrors")
async def _the_queue_is_deleted(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[None]:
    before = await operated.value("queue_receive_errors_total")
    await queues.client.delete_queue(QueueUrl=queues.jobs)
    await operated.until_grown("queue_receive_errors_total", before)
    yield
    queues.sqs.make_queues()


@_trouble("AsyncJobProxyQueueNotRead")
async def _there_is_no_room(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[str | None]:
    del queues
    async with operated.full():
        await _until_not_read(operated)
        yield await operated.page()


async def _until_not_read(operated: Operated[FaultyProxy]) -> None:
    """Wait until the proxy does not ask for messages any more: longer than a poll may take."""
    last, since = await operated.value("queue_receives_total"), time.monotonic()

    async def is_not_read() -> bool:
        nonlocal last, since
        now = await operated.value("queue_receives_total")
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() > since + POLL_S + 1

    await eventually(is_not_read, every_s=1)


@_trouble("AsyncJobProxyQueueOld")
async def _messages_have_waited(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[None]:
    clock = operated.proxy.folder / "clock"
    clock.write_text("600")
    for _ in range(_MAX_JOBS):  # then there is no capacity left, and the last message is never received
        await queues.send('{"account": "old", "fault": "never"}')
    await operated.until_grown("queue_oldest_seconds", 300)
    yield
    clock.unlink()
    await operated.cancel_all()


@_trouble("AsyncJobProxyQueueDeadLetters")
async def _a_message_is_no_job(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[None]:
    await queues.dead_letter(await queues.send("no JSON"))
    yield


@_trouble("AsyncJobProxyQueueGivesBack")
async def _the_job_server_rejects(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[None]:
    before = await operated.fate("given-back")
    await queues.send('{"account": "rejected", "fault": "reject"}')

    async def happened() -> bool:
        return await operated.fate("given-back") > before

    await eventually(happened, every_s=LOOK_S)
    yield


@_trouble("AsyncJobProxyQueueOverdue")
async def _the_queue_for_replies_is_deleted(operated: Operated[FaultyProxy], queues: SomeQueues) -> AsyncIterator[None]:
    before = await operated.fate("overdue")
    await queues.client.delete_queue(QueueUrl=queues.replies)
    await queues.send('{"account": "unheard"}')

    async def happened() -> bool:
        return await operated.fate("overdue") > before

    await eventually(happened, every_s=LOOK_S)
    yield
    queues.sqs.make_queues()


@_needs_promtool
@pytest.mark.xdist_group("alerts of a queue")
@pytest.mark.parametrize("alert", _of_queue)
async def test_an_alert_fires_on_the_trouble_of_a_queue(
    sqs: SqsStandIn,
    faulty_proxy: FaultyProxy,
    job_server: JobServer,
    client: ClientSession,
    tmp_path: Path,
    alert: str,
) -> None:
    """If it persists; it is silent as long as messages are replied to."""
    async with SomeQueues.of_a_cluster(sqs) as queues:

        async def work() -> None:
            message = await queues.send('{"account": "sound"}')
            assert (await queues.reply(message)).attributes["Outcome"] == "succeeded"

        @asynccontextmanager
        async def trouble(operated: Operated[FaultyProxy]) -> AsyncIterator[str | None]:
            async for begun in _of_queue[alert](operated, queues):
                yield begun

        operated = await Operated.sound(faulty_proxy, client, job_server)
        await check(operated, alert, trouble, tmp_path, work)


@_needs_promtool
@pytest.mark.xdist_group("alerts of a queue")
async def test_a_pause_is_no_lack_of_capacity(
    faulty_proxy: FaultyProxy, job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """Nobody asks for messages, and nobody should: AsyncJobProxyPaused says so if that is forgotten."""
    operated = await Operated.sound(faulty_proxy, client, job_server)
    first, asked = await operated.page(), await operated.value("queue_receives_total")
    await operated.until_grown("queue_receives_total", asked)
    sound = first, await operated.page()
    async with operated.paused():
        await _until_not_read(operated)
        trouble = await operated.page(), await operated.page()
    scrapes = Scrapes(sound=sound, trouble=trouble)
    scrapes.check(
        tmp_path, 'alertname=~"AsyncJobProxyQueueNotRead|AsyncJobProxyPaused"', firing={"AsyncJobProxyPaused": "ticket"}
    )


# --- a database that others share ------------------------------------------------------------------------------------


@_needs_promtool
async def test_a_database_that_hangs_is_told_of_by_the_lease(
    postgresql: PostgreSQL, database: str, job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """The lease cannot be renewed: AsyncJobProxyLeaseLags, and soon AsyncJobProxyJournalUnavailable as well."""

    @asynccontextmanager
    async def the_database_hangs(operated: Operated[ProxyProcess]) -> AsyncIterator[None]:
        postgresql.pause()
        await operated.until_grown("cluster_beat_age_seconds", 5)
        yield
        postgresql.resume()

    with ProxyProcess.started(JOB_SERVER_URL=job_server.url, JOURNAL=database, WORKER_SPARES="1") as proxy:
        operated = await Operated.sound(proxy, client, job_server)
        await check(operated, "AsyncJobProxyLeaseLags", the_database_hangs, tmp_path)


@_needs_promtool
@pytest.mark.parametrize(
    ("alert", "settings"),
    [
        ("AsyncJobProxyJobsTakenOver", {"LEASE_S": "2"}),
        ("AsyncJobProxyJobsOverdue", {"LEASE_S": "60", "JOB_TIMEOUT": "2"}),
    ],
)
async def test_an_instance_that_is_killed_is_told_of_by_another(
    database: str, job_server: JobServer, client: ClientSession, tmp_path: Path, alert: str, settings: dict[str, str]
) -> None:
    """The other one takes its job over when its lease expires, or ends the job if the deadline comes first."""
    common = {"JOB_SERVER_URL": job_server.url, "JOURNAL": database, "WORKER_SPARES": "1", **settings}
    metric = {"AsyncJobProxyJobsTakenOver": "jobs_taken_over_total"}.get(alert, "cluster_jobs_overdue_total")

    @asynccontextmanager
    async def another_is_killed(operated: Operated[HastyInstance]) -> AsyncIterator[None]:
        with HastyInstance.started(**common) as other:
            await Operated(other, client, job_server).begun()
            other.kill()
        await operated.until_grown(metric, 0)
        yield

    with HastyInstance.started(**common) as proxy:
        operated = await Operated.sound(proxy, client, job_server)
        await check(operated, alert, another_is_killed, tmp_path)
