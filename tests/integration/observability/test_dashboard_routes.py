"""The dashboard's routes over HTTP: who may look, who may cancel a job, and that viewers cost nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from tests.support.http import fetch, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

_ROUTES: Final = ("/", "/static/now.js", "/static/style.css", "/events", "/metrics", "/workers")


@pytest.fixture
async def waiting(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> AsyncIterator[str]:
    """The id of a job in flight whose callback never comes; it is cancelled at the end."""
    posted = await post_job(client, proxy.queue_job, fault="never", headers={"Prefer": "respond-async"})
    job_id = posted.headers["Job-Id"]

    async def is_waiting() -> bool:
        found = (await fetch(client, "GET", f"{proxy.admin}/jobs/{job_id}")).document
        return bool(found["state"] == "waiting")

    await eventually(is_waiting)
    yield job_id
    await fetch(client, "POST", f"{proxy.admin}/jobs/{job_id}/stop", headers=_honest(proxy))


def _honest(proxy: ProxyProcess) -> dict[str, str]:
    return {"X-Requested-By": "dashboard", "Origin": proxy.admin, "Sec-Fetch-Site": "same-origin"}


async def _events(client: ClientSession, proxy: ProxyProcess, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with client.get(f"{proxy.admin}/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                break
    return found


async def test_many_who_look_keep_nobody_out(client: ClientSession, proxy: ProxyProcess) -> None:
    """More pages than are served at a time: each newcomer gets its events at once, also through nginx."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            response = await stack.enter_async_context(client.get(f"{proxy.admin}/events"))
            assert (response.status, response.headers["X-Accel-Buffering"]) == (200, "no")
            assert (await response.content.readline()).startswith(b"data: ")


@pytest.mark.parametrize("path", _ROUTES)
async def test_clients_cannot_reach_it(client: ClientSession, proxy: ProxyProcess, path: str) -> None:
    """No admin route answers on the clients' address."""
    problem(await fetch(client, "GET", f"{proxy.url}{path}"), "not-found", 404)


@pytest.mark.parametrize("path", [*_ROUTES, "/jobs/unknown", "/no-such-route"])
async def test_a_strangers_name_reads_nothing(client: ClientSession, proxy: ProxyProcess, path: str) -> None:
    """A page whose domain was pointed at this address gets neither ids nor figures (DNS rebinding)."""
    answer = await fetch(client, "GET", proxy.admin + path, headers={"Host": "evil.example:3001"})
    problem(answer, "forbidden", 403)


async def test_a_local_name_reads_all(client: ClientSession, proxy: ProxyProcess) -> None:
    """As in the browser of an operator who types `localhost`."""
    port = proxy.admin.rpartition(":")[2]
    for path in ("/", "/metrics", "/workers"):
        answer = await fetch(client, "GET", proxy.admin + path, headers={"Host": f"localhost:{port}"})
        assert answer.status == 200


async def test_the_page_may_load_from_nowhere_else(client: ClientSession, proxy: ProxyProcess) -> None:
    """The policy forbids other hosts and inline code; the files name no other host."""
    for path in ("/", "/jobs.html", "/static/now.js", "/static/jobs.js", "/static/style.css"):
        answer = await fetch(client, "GET", proxy.admin + path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert b"http://" not in answer.body
        assert b"https://" not in answer.body


async def test_a_file_that_the_browser_has_is_not_sent_again(client: ClientSession, proxy: ProxyProcess) -> None:
    """304 if the hash of its content is the same, on the same connection as the next request; otherwise the file."""
    for path in ("/", "/static/style.css"):
        first = await fetch(client, "GET", proxy.admin + path)
        assert (first.status, first.headers["Cache-Control"]) == (200, "no-cache")
        tag = first.headers["ETag"]
        for known in (tag, f"W/{tag}", f'"other" ,W/{tag}', "*"):
            again = await fetch(client, "GET", proxy.admin + path, headers={"If-None-Match": known})
            assert (again.status, again.body) == (304, b"")
        for unknown in ('"other"', tag.strip('"'), ""):
            other = await fetch(client, "GET", proxy.admin + path, headers={"If-None-Match": unknown})
            assert (other.status, other.body) == (200, first.body)


async def test_a_snapshot_comes_each_second(client: ClientSession, proxy: ProxyProcess, waiting: str) -> None:
    """The first has the past for the charts; each has the current jobs and workers."""
    first, second, third = await _events(client, proxy, 3)
    assert len(first["past"]) == first["seconds"] == 300
    assert "past" not in second
    assert second["in_flight"]["waiting"] >= 1  # other tests may have left some
    assert waiting in [job["job_id"] for job in second["oldest"]]
    assert waiting in [worker[5] for worker in second["workers"]]
    assert third["now"] > first["now"]  # the first comes at once, however soon the next one is due


async def test_asking_for_the_head_of_a_stream_ends(client: ClientSession, proxy: ProxyProcess) -> None:
    """HEAD gets the headers and no stream, whose length is unknown: of the events, and of the jobs as lines."""
    for path, kind in (("events", "text/event-stream"), ("jobs", "application/x-ndjson")):
        answer = await fetch(client, "HEAD", f"{proxy.admin}/{path}", headers={"Accept": kind})
        assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"", kind)
        assert "Content-Length" not in answer.headers


async def test_a_job_in_flight_and_a_finished_one_are_found(
    client: ClientSession, proxy: ProxyProcess, waiting: str
) -> None:
    """The search finds a job while it runs and afterwards, with its events and without its body."""
    found = (await fetch(client, "GET", f"{proxy.admin}/jobs/{waiting}")).document
    assert (found["state"], found["outcome"], found["submitted"]) == ("waiting", None, "yes")
    assert [event for _, event in found["events"]] == ["assign", "connected", "reply-read"]
    done = await post_job(client, proxy.queue_job)
    found = (await fetch(client, "GET", f"{proxy.admin}/jobs/{done.headers['Job-Id']}")).document
    assert (found["state"], found["outcome"]) == ("finished", "succeeded")
    assert [name for name, _ in found["phases"]] == ["queue", "start", "submission", "job", "delivery"]
    assert done.document["proof"] not in json.dumps(found)
    problem(await fetch(client, "GET", f"{proxy.admin}/jobs/unknown"), "not-found", 404)


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Requested-By": ""},
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:3001", "Origin": "http://evil.example:3001"},
    ],
    ids=lambda changed: " ".join(changed.values()) or "without " + "".join(changed),
)
async def test_another_sites_page_cannot_stop_a_job(
    client: ClientSession, proxy: ProxyProcess, waiting: str, changed: dict[str, str]
) -> None:
    """A request without our header, from another origin or to another name is a 403; the job goes on."""
    headers = {name: value for name, value in (_honest(proxy) | changed).items() if value}
    answer = await fetch(client, "POST", f"{proxy.admin}/jobs/{waiting}/stop", headers=headers)
    problem(answer, "forbidden", 403)
    assert (await fetch(client, "GET", f"{proxy.admin}/jobs/{waiting}")).document["state"] == "waiting"


async def test_no_page_of_another_origin_is_allowed_to_ask(client: ClientSession, proxy: ProxyProcess) -> None:
    """A browser's preflight for our header gets no permission."""
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await fetch(client, "OPTIONS", f"{proxy.admin}/jobs/x/stop", headers=headers)
    assert answer.status == 405
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_a_job_that_is_not_there_cannot_be_stopped(client: ClientSession, proxy: ProxyProcess) -> None:
    """404, whatever the id."""
    answer = await fetch(client, "POST", f"{proxy.admin}/jobs/unknown/stop", headers=_honest(proxy))
    problem(answer, "not-found", 404)


async def test_open_pages_do_not_hold_up_the_end(client: ClientSession, job_server: JobServer) -> None:
    """SIGTERM with a page open: its events end, and the process exits with 0."""
    with ProxyProcess.started(JOB_SERVER_URL=job_server.url, WORKER_SPARES="1") as proxy:
        async with client.get(f"{proxy.admin}/events") as response:
            await response.content.readline()
            code = await asyncio.to_thread(proxy.stop, 10.0)
            assert code == 0
            await response.content.read()
        assert proxy.events_of("stopped")
