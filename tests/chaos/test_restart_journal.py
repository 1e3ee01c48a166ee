"""The journal's file cannot be used: at the start, or while jobs run."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.chaos.support.full_disk import no_room
from tests.support.http import fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually

_in_one_process = pytest.mark.xdist_group("journal")
_REFUSED: Final = "new jobs are refused until the journal can be written"
_WRITTEN: Final = "the journal can be written again"


@pytest.fixture
async def job_server_here(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server for this test, in the test's process."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0)), port=job_server_port))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of `proxy`."""
    return tmp_path_factory.mktemp("journal") / "jobs.sqlite3"


@pytest.fixture(scope="module")
def proxy(journal: Path, job_server_port: int) -> Iterator[ProxyProcess]:
    """A proxy whose journal cannot be used for a while."""
    url = f"http://127.0.0.1:{job_server_port}/start"
    with ProxyProcess.started(JOB_SERVER_URL=url, JOURNAL=str(journal)) as proxy:
        yield proxy


@_in_one_process
async def test_a_full_disk_costs_no_job_in_flight_its_answer(
    client: ClientSession, job_server_here: JobServer, proxy: ProxyProcess, journal: Path
) -> None:
    """New jobs get 503, those in flight are answered, the callback's sender is told, and all is well afterwards."""
    ref, refused = new_ref(), new_ref()
    told, written = len(proxy.events_of(_REFUSED)), len(proxy.events_of(_WRITTEN))
    waiting = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server_here.submissions(ref))

    with no_room(proxy, journal):
        callback = await fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}')
        answer = await waiting
        new = await post_job(client, proxy.queue_job, ref=refused)
        alive = await fetch(client, "GET", f"{proxy.url}/healthz")
        ready = await fetch(client, "GET", f"{proxy.url}/readyz")
    problem(callback, "journal-unavailable", 503)
    assert (answer.status, answer.body) == (200, b'{"state": "completed"}')
    problem(new, "journal-unavailable", 503, "no")
    assert alive.status == 200
    problem(ready, "journal-unavailable", 503)
    assert job_server_here.submissions(refused) == []
    await eventually(lambda: len(proxy.events_of(_REFUSED)) == told + 1)

    await eventually(lambda: len(proxy.events_of(_WRITTEN)) > written)
    assert len(proxy.events_of(_REFUSED)) == told + 1
    again = await fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}')
    assert again.document == {"status": "duplicate"}
    assert (await post_job(client, proxy.queue_job)).status == 200
    result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")
    assert result.body == answer.body


@_in_one_process
async def test_a_disk_that_does_not_answer_costs_no_job_in_flight_its_answer(
    client: ClientSession, job_server_here: JobServer, proxy: ProxyProcess, journal: Path
) -> None:
    """The result is delivered after a moment; whoever asks for a key is told, and so is a load balancer.

    A disk is hard to stop; a process that has locked the journal makes the proxy wait in the same way.
    """
    ref = new_ref()
    told, written = len(proxy.events_of(_REFUSED)), len(proxy.events_of(_WRITTEN))
    waiting = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server_here.submissions(ref))

    with closing(sqlite3.connect(journal, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        watch = Stopwatch(proxy.pid)
        callback, answer, keyed = await asyncio.gather(
            fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}'),
            waiting,
            post_job(client, proxy.queue_job, headers={"Idempotency-Key": "k1"}),
        )
        assert watch.own_s < 4, "the disk was waited for"
        ready = await fetch(client, "GET", f"{proxy.url}/readyz")
        blocker.execute("ROLLBACK")
    problem(callback, "journal-unavailable", 503)
    assert (answer.status, answer.body) == (200, b'{"state": "completed"}')
    problem(keyed, "journal-unavailable", 503)
    problem(ready, "journal-unavailable", 503)

    await eventually(lambda: len(proxy.events_of(_WRITTEN)) > written)
    assert len(proxy.events_of(_REFUSED)) == told + 1
    again = await fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}')
    assert again.document == {"status": "duplicate"}
    result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")
    assert result.body == answer.body
    assert (await post_job(client, proxy.queue_job, headers={"Idempotency-Key": "k1"})).status == 200


@_in_one_process
async def test_a_second_front_end_on_the_same_journal_is_refused(
    client: ClientSession, job_server_here: JobServer, proxy: ProxyProcess, journal: Path
) -> None:
    """A line that says so, exit code 2; the first one goes on."""
    with ProxyProcess(JOB_SERVER_URL=job_server_here.url, JOURNAL=str(journal)) as second:
        assert await asyncio.to_thread(second.wait) == 2
    said = f"error: JOURNAL: {str(journal)!r} is in use by another proxy; give each its own file, or none with JOURNAL="
    assert said in second.stderr
    assert (await post_job(client, proxy.queue_job)).status == 200


@pytest.mark.parametrize(
    "content", [os.urandom(8192), b"SQLite format 3\0" + b"\0" * 4080], ids=["no database", "no tables"]
)
def test_a_damaged_journal_ends_the_start(tmp_path: Path, content: bytes) -> None:
    """One line that says what to do, exit code 2, and an unchanged file."""
    journal = tmp_path / "jobs.sqlite3"
    journal.write_bytes(content)

    with ProxyProcess(JOURNAL=str(journal)) as proxy:
        assert proxy.wait() == 2

    (line,) = (line for line in proxy.stderr if line.startswith("error:"))
    assert line.startswith(f"error: JOURNAL: {str(journal)!r} ")
    assert journal.read_bytes() == content
