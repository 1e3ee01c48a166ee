"""S1 to S3: job servers that answer status calls badly, fail to cancel, or send too much progress."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from aiohttp import ClientSession, web
from pytest_aiohttp import AiohttpServer

from proxy.store.journal.file import JournalFile
from shared.lifecycle import State
from tests.support.http import fetch
from tests.support.proxy_process import ProxyProcess
from tests.support.records import a_record
from tests.support.waiting import IN_VAIN_S, eventually

PROFILE: Final = """
name = "asked"
[submit]
url = "/jobs"
body = { hook = "{callback_url}" }
outputs = { id = "body.id" }
[callback]
state = "body.status"
succeeded = ["done"]
failed = ["broken"]
[status]
url = "/jobs/{id}"
after = 0.2
every = 0.2
[cancel]
url = "/jobs/{id}/cancel"
"""
TIMEOUT_S: Final = 3.0
_shared = pytest.mark.xdist_group("asking")
#: In turn; none of them says how the job ended, though each looks like an end.
LIES: Final = (
    (200, '{"status": "Done"}'),
    (200, '{"status": ["done"]}'),
    (200, '{"result": "done"}'),
    (200, '{"status": "done"'),
    (404, '{"status": "broken"}'),
    (409, '{"status": "failed"}'),
    (500, '{"status": "done"}'),
)
#: How many jobs an earlier process left open. Their questions come at a rate of two hundred a second.
OPEN: Final = 400
MEGABYTE: Final = 1024 * 1024


class Moody:
    """A job server that accepts each job, and then answers questions about it as the job's `mood` says."""

    def __init__(self) -> None:
        self.hooks: dict[str, str] = {}
        self.moods: dict[str, str] = {}
        #: The calls about each job, and the highest number that were open at once.
        self.asked: Counter[str] = Counter()
        self.told_to_cancel: Counter[str] = Counter()
        self.open = 0
        self.most_open = 0
        self.asked_at: list[float] = []
        self.elsewhere = 0
        self._numbers = itertools.count(1)

    async def submit(self, request: web.Request) -> web.Response:
        """Accept a job; it does nothing."""
        job, job_id = await request.json(), str(next(self._numbers))
        self.hooks[job_id], self.moods[job_id] = job["hook"], job["mood"]
        return web.json_response({"id": job_id})

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Answer a status call."""
        job_id = request.match_info["id"]
        self.asked[job_id] += 1
        self.asked_at.append(time.monotonic())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._in_its_mood(request, self.moods.get(job_id, "done"), self.asked[job_id])
        finally:
            self.open -= 1

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Answer a cancellation."""
        job_id = request.match_info["id"]
        self.told_to_cancel[job_id] += 1
        return await self._in_its_mood(request, self.moods[job_id], self.told_to_cancel[job_id])

    async def _in_its_mood(self, request: web.Request, mood: str, times: int) -> web.StreamResponse:
        match mood:
            case "hangs":
                await asyncio.Event().wait()
            case "lies":
                status, body = LIES[(times - 1) % len(LIES)]
                return web.Response(status=status, text=body, content_type="application/json")
            case "answers HTML":
                return web.Response(text="<html>done</html>", content_type="text/html")
            case "redirects":
                return web.Response(status=302, headers={"Location": "/elsewhere"})
            case "hangs up":
                assert request.transport is not None
                request.transport.abort()
            case "is ill" | "gets well" if mood == "is ill" or times < 4:
                return web.Response(status=503)
        return web.json_response({"status": "done"})

    async def take_elsewhere(self, _: web.Request) -> web.Response:
        """Say that any job is done, at an address that must not be asked."""
        self.elsewhere += 1
        return web.json_response({"status": "done"})


@pytest.fixture
async def moody(aiohttp_server: AiohttpServer, job_server_port: int) -> tuple[Moody, str]:
    """The job server, and its address."""
    server, app = Moody(), web.Application()
    app.router.add_post("/jobs", server.submit)
    app.router.add_get("/jobs/{id}", server.status)
    app.router.add_post("/jobs/{id}/cancel", server.cancel)
    app.router.add_get("/elsewhere", server.take_elsewhere)
    return server, str((await aiohttp_server(app, port=job_server_port)).make_url("")).rstrip("/")


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, job_server_port: int) -> Iterator[ProxyProcess]:
    """A proxy with plain settings for that job server."""
    file = tmp_path_factory.mktemp("asking") / "asked.toml"
    file.write_text(PROFILE, encoding="utf-8")
    url, journal = f"http://127.0.0.1:{job_server_port}", str(file.with_name("jobs.sqlite3"))
    with ProxyProcess.started(PROFILE=str(file), JOB_SERVER_URL=url, JOURNAL=journal) as proxy:
        yield proxy


@pytest.fixture
async def start(moody: tuple[Moody, str], tmp_path: Path) -> AsyncIterator[Callable[..., ProxyProcess]]:
    """Start a proxy for that job server, which is stopped at the end of the test."""
    file, started = tmp_path / "asked.toml", []
    file.write_text(PROFILE, encoding="utf-8")

    def proxy(**settings: str) -> ProxyProcess:
        usual = {"PROFILE": str(file), "JOB_SERVER_URL": moody[1], "JOURNAL": str(tmp_path / "jobs.sqlite3")}
        started.append(ProxyProcess.started(**(usual | settings)))
        return started[-1]

    yield proxy
    for one in started:
        await asyncio.to_thread(one.__exit__, None, None, None)


async def test_s1_no_answer_is_taken_for_an_end_that_is_none(
    moody: tuple[Moody, str], start: Callable[..., ProxyProcess], client: ClientSession
) -> None:
    """Whatever the job server answers, the job keeps its deadline; a valid answer that comes at last counts."""
    server, _ = moody
    proxy = start(JOB_TIMEOUT=str(TIMEOUT_S))
    bad = ["hangs", "lies", "answers HTML", "redirects", "hangs up", "is ill"]
    watch = proxy.stopwatch()
    answers = await asyncio.gather(
        *(fetch(client, "POST", proxy.queue_job, json={"mood": mood}) for mood in [*bad, "gets well"])
    )
    assert watch.own_s < TIMEOUT_S + 1
    for mood, answer in zip(bad, answers, strict=False):
        assert (answer.document["code"], answer.document["submitted"]) == ("deadline-exceeded", "yes"), mood
    assert (answers[-1].status, answers[-1].document) == (200, {"status": "done"})
    asked = {server.moods[job_id]: count for job_id, count in server.asked.items()}
    assert asked["hangs"] == 1  # it is not cut off for the next one
    assert min(asked[mood] for mood in bad[1:]) >= 2
    assert server.elsewhere == 0


@_shared
async def test_s1_a_callback_counts_beside_a_question_that_hangs(
    moody: tuple[Moody, str], asking: ProxyProcess, client: ClientSession
) -> None:
    """The client gets its answer at once."""
    server, _ = moody
    waiting = asyncio.ensure_future(fetch(client, "POST", asking.queue_job, json={"mood": "hangs"}))
    await eventually(lambda: server.open == 1)
    await fetch(client, "POST", server.hooks["1"], json={"status": "done", "n": 1})
    assert (await waiting).document == {"status": "done", "n": 1}


@_shared
async def test_s2_a_cancel_that_fails_is_told_in_the_log_and_the_callback_counts(
    moody: tuple[Moody, str], asking: ProxyProcess, client: ClientSession
) -> None:
    """The client's wait still ends at once, and a later callback is kept as late."""
    server, _ = moody

    def said(what: str) -> int:
        return len(asking.events_of(what))

    failed, told = "the job server could not be told to cancel a job", "the job server was told to cancel a job"
    failed_before, told_before = said(failed), said(told)
    for number, mood in enumerate(("is ill", "hangs up", "answers HTML", "hangs"), 1):
        await cancel_and_call_back(server, asking, client, str(number), mood)
    await eventually(lambda: said(failed) == failed_before + 3, every_s=0.1)
    assert said(told) == told_before + 1  # any 2xx


async def test_s2_a_cancel_that_hangs_as_the_proxy_stops_is_no_lost_job(
    moody: tuple[Moody, str], start: Callable[..., ProxyProcess], client: ClientSession
) -> None:
    """It is cut off with a warning: the job has ended, and its client was told."""
    server, _ = moody
    proxy = start(JOB_TIMEOUT="1")
    waiting = asyncio.ensure_future(fetch(client, "POST", proxy.queue_job, json={"mood": "hangs"}))
    await eventually(lambda: server.open == 1)
    assert await asyncio.to_thread(proxy.stop) == 0
    assert (await waiting).document["code"] == "deadline-exceeded"
    assert server.told_to_cancel["1"] == 1
    assert len(proxy.events_of("the drain took too long, and calls or connections were cut off")) == 1
    assert [line["event"] for line in proxy.events if line["level"] == "error"] == []


async def cancel_and_call_back(
    server: Moody, proxy: ProxyProcess, client: ClientSession, job_id: str, mood: str
) -> None:
    """Cancel a job once its reply was read; then let the job server call back."""
    accepted = await fetch(client, "POST", proxy.queue_job, json={"mood": mood}, headers={"Prefer": "respond-async"})
    url = f"{proxy.url}/jobs/{accepted.headers['Job-Id']}"
    await eventually(lambda: server.asked[job_id] > 0)
    assert (await fetch(client, "DELETE", url)).document["code"] == "cancelled"
    await eventually(lambda: server.told_to_cancel[job_id] == 1)
    late = await fetch(client, "POST", server.hooks[job_id], json={"status": "done"})
    assert (late.status, late.document) == (200, {"status": "late"})
    kept = (await fetch(client, "GET", url)).document
    assert (kept["late"], kept["outcome"]) == (True, "succeeded")


@_shared
async def test_s2_operators_see_a_worker_that_makes_a_call(
    moody: tuple[Moody, str], asking: ProxyProcess, client: ClientSession
) -> None:
    """It is nobody's worker, and in a state of its own; the dashboard goes on meanwhile."""
    server, _ = moody
    accepted = await fetch(
        client, "POST", asking.queue_job, json={"mood": "hangs"}, headers={"Prefer": "respond-async"}
    )
    job_id = accepted.headers["Job-Id"]
    await eventually(lambda: server.asked["1"] > 0)
    async with client.get(f"{asking.admin}/events") as events:
        await fetch(client, "DELETE", f"{asking.url}/jobs/{job_id}")
        await eventually(lambda: server.told_to_cancel["1"] == 1)
        seen: dict[str, int] = {}
        async with asyncio.timeout(IN_VAIN_S):
            while "asking" not in seen:
                line = await events.content.readline()
                seen = json.loads(line.removeprefix(b"data: "))["workers_by_state"] if line.strip() else seen
    assert seen["asking"] == 1
    workers = (await fetch(client, "GET", f"{asking.admin}/workers")).document
    assert job_id in [one["job_id"] for one in workers if one["state"] == "asking"]
    metrics = (await fetch(client, "GET", f"{asking.admin}/metrics")).body.decode()
    assert 'async_job_proxy_workers{state="asking"} 1.0' in metrics


async def test_s3_thousands_of_progress_callbacks_for_one_job(
    moody: tuple[Moody, str], start: Callable[..., ProxyProcess], client: ClientSession, tmp_path: Path
) -> None:
    """Each is answered 200; memory and journal do not grow."""
    server, _ = moody
    proxy = start(JOB_TIMEOUT="120")

    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.glob("jobs.sqlite3*"))

    waiting = asyncio.ensure_future(fetch(client, "POST", proxy.queue_job, json={"mood": "hangs"}))
    await eventually(lambda: server.open == 1)
    await flood(server.hooks["1"], 300)
    front_end = psutil.Process(proxy.pid)
    memory, journal = front_end.memory_info().rss, size()
    await flood(server.hooks["1"], 2_700)
    assert front_end.memory_info().rss - memory < 12 * MEGABYTE  # of the 35 that were sent
    assert size() - journal < MEGABYTE / 4
    jobs = (await fetch(client, "GET", f"{proxy.admin}/jobs?state=waiting")).document["jobs"]
    found = (await fetch(client, "GET", f"{proxy.url}/jobs/{jobs[0]['job_id']}")).document
    assert (found["progress"]["count"], found["progress"]["body"]["n"]) == (3_000, 2_699)
    await fetch(client, "POST", server.hooks["1"], json={"status": "done"})
    assert (await waiting).status == 200


async def flood(url: str, count: int, at_once: int = 100) -> None:
    """Send progress callbacks on one connection, this many before their answers are read."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    for first in range(0, count, at_once):
        for number in range(first, first + at_once):
            body = b'{"status": "running", "n": %d, "log": "%b"}' % (number, b"x" * 13_000)
            head = f"POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        answers = b""
        while answers.count(b"HTTP/1.1 ") < at_once or not answers.endswith(b"}"):
            answers += (received := await reader.read(MEGABYTE))
            assert received, answers
        assert answers.count(b"HTTP/1.1 200 ") == at_once, answers
    writer.close()


async def test_s3_hundreds_of_open_jobs_after_a_restart_are_asked_for_a_few_at_a_time(
    moody: tuple[Moody, str], start: Callable[..., ProxyProcess], client: ClientSession, tmp_path: Path
) -> None:
    """All are found, each with few questions, and new jobs are served meanwhile."""
    server, _ = moody
    journal = JournalFile(str(tmp_path / "jobs.sqlite3"))
    records = [
        a_record(state=State.WAITING, deadline_at=time.time() + 600, profile="asked", outputs={"id": f"open-{number}"})
        for number in range(OPEN)
    ]
    journal.write(records)  # not by the store, which would refuse them while a busy disk does not respond
    journal.close()
    slowly: dict[str, Any] = {"PROFILE": str(tmp_path / "slowly.toml"), "MAX_JOBS": "2000", "WORKER_MAX_JOBS": "0"}
    (tmp_path / "slowly.toml").write_text(PROFILE.replace("every = 0.2", "every = 2"), encoding="utf-8")
    proxy = start(**slowly)
    answer = await fetch(client, "POST", proxy.queue_job, json={"mood": "is well"})
    assert answer.status == 200
    what = "the job server was asked and reported how a job ended"
    await eventually(lambda: len(proxy.events_of(what)) >= OPEN + 1, timeout_s=90, every_s=0.25)
    assert all(server.asked[f"open-{number}"] == 1 for number in range(OPEN))
    assert server.most_open <= 4 + 1  # borrowed workers, and the new job's own
    assert max(server.asked_at) - min(server.asked_at) > 0.8  # spread, not at once
    ended = await fetch(client, "GET", f"{proxy.url}/jobs/{records[0].id}")
    assert (ended.document["outcome"], ended.document["submitted"]) == ("succeeded", "yes")
