"""Each alert fires on its trouble and is silent before it. The trouble is caused at running proxies.

The rules are tried with a proxy's own metrics, before and during the trouble: if a metric or a label is renamed, a test
fails. test_alerts_of_others.py has the alerts about a queue and a shared database.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import psutil
import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.chaos.support.full_disk import no_room
from tests.chaos.support.harness import PATIENT
from tests.chaos.support.operated import LOOK_S, Operated, Trouble, check
from tests.chaos.support.processes import FaultyProxy
from tests.chaos.support.prometheus import Scrapes, severities
from tests.support.http import new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT
from tests.support.waiting import eventually

pytestmark = [
    # They share a proxy, which would be started once for each process that runs one of them.
    pytest.mark.xdist_group("alerts"),
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing (Debian package: prometheus)"),
]
_MAX_JOBS: Final = 4
#: More than the backlog of unwritten records may hold.
_LARGE_BYTES: Final = 70 * 1024 * 1024
#: The log's reader is a process that can be ended.
_READ_BY_CAT: Final = ("bash", "-c", 'exec "$@" 2> >(exec cat >&2)', "bash")

#: The job server's protocol, with a proof that it does not send.
_PROVEN: Final = """
name = "proven"

[server]
url = "http://127.0.0.1:{port}"

[submit]
url = "/start"
body = {{ wait = false, callback = "{{callback_url}}" }}

[callback]
state = "body.state"
succeeded = ["completed"]
failed = ["failed"]

[verify]
scheme = "header"
header = "X-Secret"
value = "not told to anybody"
"""

_troubles: dict[str, Trouble[FaultyProxy]] = {}


@pytest.fixture(scope="module")
def faulty_proxy(job_server_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    """A proxy with little capacity and few spares, so that both are soon used up; it serves two profiles."""
    folder = tmp_path_factory.mktemp("proxy")
    profile = folder / "proven.toml"
    profile.write_text(_PROVEN.format(port=job_server_port), encoding="utf-8")
    settings = PATIENT | {
        "PROFILE": f"spreedly,{profile}",
        "JOB_SERVER_URL": f"http://127.0.0.1:{job_server_port}/start",
        "JOURNAL": str(folder / "journal"),
        "MAX_JOBS": str(_MAX_JOBS),
        "WORKER_SPARES": "2",
        "SUBMIT_RETRIES": "0",
        "MAX_BODY_BYTES": str(2 * _LARGE_BYTES),
    }
    with FaultyProxy(folder, prefix=_READ_BY_CAT, stdout=None, **settings) as proxy:
        proxy.wait_until_listening()
        yield proxy


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server inside the test."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0)), port=job_server_port))


@pytest.fixture
async def operated(faulty_proxy: FaultyProxy, job_server: JobServer, client: ClientSession) -> Operated[FaultyProxy]:
    """The proxy, once it is sound."""
    return await Operated.sound(faulty_proxy, client, job_server)


def _trouble(alert: str) -> Callable[[Trouble[FaultyProxy]], Trouble[FaultyProxy]]:
    """Register a trouble for an alert; it lasts as long as the block."""

    def note(trouble: Trouble[FaultyProxy]) -> Trouble[FaultyProxy]:
        _troubles[alert] = trouble
        return trouble

    return note


# --- what can be done to a proxy -------------------------------------------------------------------------------------


@_trouble("AsyncJobProxyDown")
@asynccontextmanager
async def _front_end_stands_still(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    operated.proxy.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        operated.proxy.signal(signal.SIGCONT)


@_trouble("AsyncJobProxyJobsFail")
@_trouble("AsyncJobProxyFewJobsFail")
@asynccontextmanager
async def _the_job_server_rejects(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    for _ in range(3):
        await operated.jobs(_MAX_JOBS, fault="reject")
    yield


@_trouble("AsyncJobProxyFateUnknown")
@asynccontextmanager
async def _a_worker_dies_after_the_submission(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    answer = await operated.job(fault="hang", chaos="sigkill@p2")
    assert answer.document["submitted"] == "unknown"
    yield


@_trouble("AsyncJobProxyRefusesJobs")
@_trouble("AsyncJobProxyRefusesMost")
@asynccontextmanager
async def _there_is_no_room(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    async with operated.full():
        refused = await operated.jobs(2 * _MAX_JOBS)
        assert {answer.status for answer in refused} == {503}
        yield


@_trouble("AsyncJobProxyNearlyFull")
@asynccontextmanager
async def _all_room_is_taken(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    async with operated.full():
        yield


@_trouble("AsyncJobProxyPaused")
@asynccontextmanager
async def _somebody_pauses_the_intake(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    async with operated.paused():
        yield


@_trouble("AsyncJobProxyNoWorkers")
@asynccontextmanager
async def _no_process_can_be_made(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    marker = operated.proxy.folder / "no-fork"
    marker.touch()

    async def on_hold() -> bool:
        await operated.job()
        return await operated.value("workers_on_hold") == 1

    try:
        await eventually(on_hold, every_s=LOOK_S)
        yield
    finally:
        marker.unlink()


@_trouble("AsyncJobProxySparesDie")
@asynccontextmanager
async def _somebody_kills_spares(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    before = await operated.value("worker_spare_deaths_total")

    async def many_died() -> bool:
        for pid in await operated.spares():
            with suppress(ProcessLookupError):  # killed at the last look, and gone since it was listed
                os.kill(pid, signal.SIGUSR1)  # on which a spare exits
        return await operated.value("worker_spare_deaths_total") >= before + 3

    await eventually(many_died)
    yield


@_trouble("AsyncJobProxyForkServerRestarts")
@asynccontextmanager
async def _somebody_kills_the_fork_server(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    before = await operated.value("fork_server_restarts_total")
    os.kill(operated.proxy.fork_server_pid(), signal.SIGKILL)
    await operated.until_grown("fork_server_restarts_total", before)
    yield


@_trouble("AsyncJobProxyEventLoopLags")
@asynccontextmanager
async def _the_front_end_gets_no_processor(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    before = await operated.late_timers()

    async def late() -> bool:
        operated.proxy.signal(signal.SIGSTOP)
        await asyncio.sleep(1)  # longer than two of its timers
        operated.proxy.signal(signal.SIGCONT)
        return await operated.late_timers() > before

    await eventually(late)
    yield


@_trouble("AsyncJobProxyCallbacksForged")
@asynccontextmanager
async def _somebody_guesses_tokens(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    for _ in range(20):
        assert (await operated.call_back(f"{operated.proxy.callback}/callback/guessed")).status == 404
    yield


@_trouble("AsyncJobProxyCallbacksLate")
@asynccontextmanager
async def _a_result_comes_after_the_end(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    url = await operated.begun()
    await operated.cancel_all()
    assert (await operated.call_back(url)).status == 200
    yield


@_trouble("AsyncJobProxyJournalUnavailable")
@asynccontextmanager
async def _somebody_locks_the_journal(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    with closing(sqlite3.connect(operated.proxy.folder / "journal", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        asking = asyncio.ensure_future(operated.job())
        await operated.until_grown("journal_unavailable", 0)
        yield
        blocker.execute("ROLLBACK")
        await asking


@_trouble("AsyncJobProxyJournalLoses")
@asynccontextmanager
async def _the_disk_is_full_and_a_result_is_larger_than_what_can_be_kept(
    operated: Operated[FaultyProxy],
) -> AsyncIterator[None]:
    url = await operated.begun()
    before = await operated.value("journal_records_given_up_total")
    with no_room(operated.proxy, operated.proxy.folder / "journal"):
        await operated.call_back(url, b'{"state": "completed", "padding": "' + b"x" * _LARGE_BYTES + b'"}')
        await operated.until_grown("journal_records_given_up_total", before)
        yield


@_trouble("AsyncJobProxyBug")
@asynccontextmanager
async def _a_worker_has_a_bug(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
    assert (await operated.job(chaos="bug@p1")).document["code"] == "internal-error"
    yield


# --- and which alert fires --------------------------------------------------------------------------------------------


async def test_a_sound_proxy_alerts_nobody(operated: Operated[FaultyProxy], tmp_path: Path) -> None:
    """A proxy whose jobs succeed. Only the event loop's lag is left out, as it depends on the load of this machine."""
    pages = [await operated.page()]
    for _ in range(3):
        await operated.jobs(_MAX_JOBS)
        pages.append(await operated.page())
    first, second, third, fourth = pages
    scrapes = Scrapes(sound=(first, second), trouble=(third, fourth))
    scrapes.check(tmp_path, severities().keys() - {"AsyncJobProxyEventLoopLags"}, firing={})


@pytest.mark.parametrize("alert", _troubles)
async def test_an_alert_fires_on_its_trouble(operated: Operated[FaultyProxy], tmp_path: Path, alert: str) -> None:
    """If it persists; it is silent as long as jobs succeed."""
    await check(operated, alert, _troubles[alert], tmp_path)


async def test_callbacks_without_the_required_proof_are_told_of(
    operated: Operated[FaultyProxy], job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """A known token is not enough for a profile with `[verify]`: AsyncJobProxyCallbacksForged."""

    @asynccontextmanager
    async def somebody_lacks_the_secret(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
        ref, url = new_ref(), f"{operated.proxy.queue_job}/proven"
        begun = await post_job(client, url, headers={"Prefer": "respond-async"}, ref=ref, fault="never")
        assert begun.status == 202
        await eventually(lambda: job_server.submissions(ref))
        for _ in range(20):
            assert (await operated.call_back(job_server.callback_url(ref))).status == 401
        yield
        await operated.cancel_all()

    await check(operated, "AsyncJobProxyCallbacksForged", somebody_lacks_the_secret, tmp_path)


async def test_it_is_told_when_nobody_reads_the_log(operated: Operated[FaultyProxy], tmp_path: Path) -> None:
    """Once its reader has exited, lines are lost: AsyncJobProxyLogLost. The last of these tests needs no log."""

    @asynccontextmanager
    async def the_reader_ends(operated: Operated[FaultyProxy]) -> AsyncIterator[None]:
        (reader,) = (it for it in psutil.Process(operated.proxy.pid).children() if it.name() == "cat")
        reader.kill()
        await operated.job()
        await operated.until_grown("log_lines_dropped_total", 0)
        yield

    await check(operated, "AsyncJobProxyLogLost", the_reader_ends, tmp_path)


def test_every_alert_is_tried() -> None:
    """Except two that tests/unit/deploy tests.

    AsyncJobProxyGone is about service discovery, AsyncJobProxyCertificateExpires about the date.
    """
    files = (ROOT / "tests" / "chaos").glob("test_alerts*.py")
    tried = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert [alert for alert in severities() if alert not in tried] == []
