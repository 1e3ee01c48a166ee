"""The journal's file cannot be used: at the start, or while jobs run."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

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


@pytest.fixture
async def job_server_here(aiohttp_server: AiohttpServer) -> JobServer:
    """A job server for this test, in the test's process."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0))))


async def test_a_full_disk_costs_no_job_in_flight_its_answer(
    client: ClientSession, job_server_here: JobServer, tmp_path: Path
) -> None:
    """New jobs get 503, those in flight are answered, the callback's sender is told, and all is well afterwards."""
    journal = tmp_path / "jobs.sqlite3"
    ref, refused = new_ref(), new_ref()
    with ProxyProcess.started(JOB_SERVER_URL=job_server_here.url, JOURNAL=str(journal)) as proxy:
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
        assert (
            len(await eventually(lambda: proxy.events_of("new jobs are refused until the journal can be written"))) == 1
        )

        await eventually(lambda: proxy.events_of("the journal can be written again"))
        again = await fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}')
        assert again.document == {"status": "duplicate"}
        assert (await post_job(client, proxy.queue_job)).status == 200
        result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")
        assert result.body == answer.body


async def test_a_disk_that_does_not_answer_costs_no_job_in_flight_its_answer(
    client: ClientSession, job_server_here: JobServer, tmp_path: Path
) -> None:
    """The result is delivered after a moment; whoever asks for a key is told, and so is a load balancer.

    A disk is hard to stop; a process that has locked the journal makes the proxy wait in the same way.
    """
    journal = tmp_path / "jobs.sqlite3"
    ref = new_ref()
    with ProxyProcess.started(JOB_SERVER_URL=job_server_here.url, JOURNAL=str(journal)) as proxy:
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

        await eventually(lambda: proxy.events_of("the journal can be written again"))
        assert len(proxy.events_of("new jobs are refused until the journal can be written")) == 1
        again = await fetch(client, "POST", job_server_here.callback_url(ref), data=b'{"state": "completed"}')
        assert again.document == {"status": "duplicate"}
        result = await fetch(client, "GET", f"{proxy.url}/jobs/{answer.headers['Job-Id']}/result")
        assert result.body == answer.body
        assert (await post_job(client, proxy.queue_job, headers={"Idempotency-Key": "k1"})).status == 200


async def test_a_second_front_end_on_the_same_journal_is_refused(
    client: ClientSession, job_server_here: JobServer, tmp_path: Path
) -> None:
    """A line that says so, exit code 2; the first one goes on."""
    journal = str(tmp_path / "jobs.sqlite3")
    with ProxyProcess.started(JOB_SERVER_URL=job_server_here.url, JOURNAL=journal) as first:
        with ProxyProcess(JOB_SERVER_URL=job_server_here.url, JOURNAL=journal) as second:
            assert await asyncio.to_thread(second.wait) == 2
        said = f"error: JOURNAL: {journal!r} is in use by another proxy; give each its own file, or none with JOURNAL="
        assert said in second.stderr
        assert (await post_job(client, first.queue_job)).status == 200


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
