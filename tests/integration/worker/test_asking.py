"""Calls about a job: whatever a job server answers or fails to answer, the caller gets an answer."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from shared.job_server import loader
from shared.lifecycle import Event
from shared.messages import Ask, Assign, Told
from shared.worker_config import JobServer, WorkerConfig
from tests.support.waiting import IN_VAIN_S, eventually
from worker.job_client import JobServers

PROFILE = """
name = "asked"

[server]
headers = { Authorization = "Bearer {env:KEY}" }

[submit]
body = { hook = "{callback_url}" }
outputs = { id = "body.id" }

[callback]
state = "body.state"
succeeded = ["done"]
failed = ["broken"]
error = "body.why"

[status]
url = "/jobs/{id}"

[cancel]
url = "/jobs/{id}/cancel"
body = { id = "{id}" }
"""
#: Only the answer to the status call says where the result is.
WITH_ELSEWHERE = (
    PROFILE.replace(
        'url = "/jobs/{id}"\n', 'url = "/jobs/{id}"\noutputs = { file = "body.files[0].id", id = "body.no" }\n'
    )
    + '\n[result]\nurl = "/files/{file}/of/{id}"\n'
)
WITH_RESULT = PROFILE + '\n[result]\nurl = "/jobs/{id}/result"\nresult = "body.data"\n'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bench:
    """A job server that answers as a test says, and a client that asks it."""

    def __init__(self, aiohttp_server: AiohttpServer) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: dict[str, Handler] = {}
        self._aiohttp_server = aiohttp_server
        self._open: list[JobServers] = []

    async def start(self, profile: str = PROFILE, secret_file: str = "") -> None:
        """Serve; `secret_file` has the key, which is otherwise `secret`."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        server = await self._aiohttp_server(app)
        job_server = JobServer(
            url=str(server.make_url("/")),
            profile=loader.parse(profile),
            secrets={"env:KEY": "secret"},
            secret_files={"env:KEY": secret_file} if secret_file else {},
        )
        self.servers = JobServers(
            WorkerConfig(
                job_servers=(job_server,), max_body_bytes=10_000, submit_retries=0, lost_reply_wait_s=0, max_jobs=0
            )
        )
        self._open.append(self.servers)

    async def close(self) -> None:
        """Close everything that was opened."""
        for servers in self._open:
            servers.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.path, headers, await request.read()))
        return await self.answers[request.path](request)

    def answer(self, path: str, document: object, status: int = 200, **headers: str) -> None:
        """Answer with JSON."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}

        async def handle(_: web.Request) -> web.Response:
            return web.json_response(document, status=status, headers=fields)

        self.answers[path] = handle

    async def ask(self, call: str = "outcome", timeout_s: float = IN_VAIN_S, **values: str) -> Told:
        """Ask about the job that the job server calls 7."""
        ask = Ask(
            job_id="j",
            profile="",
            call=call,
            values=json.dumps(values or {"id": "7"}),
            deadline=time.monotonic() + timeout_s,
        )
        return await self.servers.asker("").tell(ask)


@pytest.fixture
async def bench(aiohttp_server: AiohttpServer) -> AsyncIterator[Bench]:
    """A bench that is not serving yet."""
    bench = Bench(aiohttp_server)
    yield bench
    await bench.close()


async def test_a_job_that_is_over_is_told_with_its_body(bench: Bench) -> None:
    """With the credentials of the profile."""
    await bench.start()
    bench.answer("/jobs/7", {"state": "done", "n": 1})
    told = await bench.ask()
    assert (told.kind, told.state, told.body) == ("succeeded", "done", b'{"state": "done", "n": 1}')
    bench.answer("/jobs/7", {"state": "broken", "why": "so"})
    assert (await bench.ask()).error == "so"
    bench.answer("/jobs/7", {"state": "half"})
    told = await bench.ask()
    assert (told.kind, told.state, told.body) == ("progress", "half", b"")
    assert {seen[2]["authorization"] for seen in bench.seen} == {"Bearer secret"}


async def test_a_secret_in_a_file_is_sent_as_it_is_now(bench: Bench, tmp_path: Path) -> None:
    """A token may expire and be replaced; while its file is missing or empty, the one of the start is sent."""
    file = tmp_path / "token"
    await bench.start(secret_file=str(file))
    bench.answer("/jobs/7", {"state": "broken", "why": "token second is unknown"})
    for content in ("first\n", "second\n", "", None):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)
        told = await bench.ask()
        assert ("second" in told.error) is (content != "second\n")
    sent = [headers["authorization"] for _, _, headers, _ in bench.seen]
    assert sent == ["Bearer first", "Bearer second", "Bearer secret", "Bearer secret"]


async def test_a_status_may_say_where_the_result_is(bench: Bench) -> None:
    """Its names count for the call that fetches the result, except those that the job has already."""
    await bench.start(WITH_ELSEWHERE)
    bench.answer("/jobs/7", {"state": "done", "files": [{"id": "f 1"}], "no": "8"})
    bench.answer("/files/f 1/of/7", {"data": 1})
    told = await bench.ask()
    assert (told.kind, json.loads(told.body)) == ("succeeded", {"data": 1})

    bench.answer("/jobs/7", {"state": "done"})
    told = await bench.ask()
    assert (told.kind, told.error) == ("unavailable", "the call cannot be made: {file} has no value")


async def test_a_result_of_its_own_is_fetched_once_the_job_is_over(bench: Bench) -> None:
    """A job whose result is not there yet is not over; a job without any result has failed."""
    await bench.start(WITH_RESULT)
    bench.answer("/jobs/7", {"state": "done"})
    bench.answer("/jobs/7/result", {"data": [1]})
    told = await bench.ask()
    assert (told.kind, told.body) == ("succeeded", b"[1]")
    bench.answer("/jobs/7/result", {}, status=404)
    assert (await bench.ask()).kind == "progress"
    bench.answer("/jobs/7/result", {"a": 1}, status=410)
    told = await bench.ask()
    assert (told.kind, told.body) == ("failed", b'{"a": 1}')
    assert (await bench.ask("status")).kind == "succeeded"
    bench.answer("/jobs/7", {"state": "half"})
    asked = len(bench.seen)
    assert (await bench.ask()).kind == "progress"
    assert len(bench.seen) == asked + 1


@pytest.mark.parametrize(("status", "state"), [(429, ""), (503, ""), (202, "half"), (200, "half")])
async def test_the_pause_that_an_answer_asks_for_is_told(bench: Bench, status: int, state: str) -> None:
    """A job server that limits how often it is asked says so in any answer that is not the end."""
    await bench.start(WITH_RESULT)
    bench.answer("/jobs/7", {"state": state}, status, Retry_After="20")
    told = await bench.ask()
    assert (told.kind, told.state, told.pause_s) == ("progress", state, 20)
    bench.answer("/jobs/7", {"state": "done"})
    bench.answer("/jobs/7/result", {}, 429, Retry_After="soon")
    assert (await bench.ask()).pause_s == 0
    bench.answer("/jobs/7/result", {}, 429, Retry_After="30")
    assert (await bench.ask()).pause_s == 30


async def test_a_failure_repeats_no_secret(bench: Bench) -> None:
    """Some servers quote the key that they do not accept; clients see the reason and the body."""
    await bench.start(WITH_RESULT)
    bench.answer("/jobs/7", {"state": "broken", "why": "the key secret\u00e9 has expired"})
    told = await bench.ask()
    assert (told.kind, told.error) == ("failed", "the key ***\u00e9 has expired")
    assert json.loads(told.body) == {"state": "broken", "why": "the key ***\u00e9 has expired"}
    bench.answer("/jobs/7", {"state": "done"})
    bench.answer("/jobs/7/result", {"error": "Bearer secret"}, status=401)
    assert (await bench.ask()).body == b'{"error": "Bearer ***"}'
    bench.answer("/jobs/7/result", {"data": "secret"})
    assert (await bench.ask()).body == b'"secret"'


async def test_a_job_is_cancelled_with_what_the_profile_sends(bench: Bench) -> None:
    """The answer says whether that worked."""
    await bench.start()
    bench.answer("/jobs/7/cancel", {})
    assert (await bench.ask("cancel")).kind == "cancelled"
    assert bench.seen[0][0::3] == ("POST", b'{"id": "7"}')
    bench.answer("/jobs/7/cancel", {}, status=500)
    told = await bench.ask("cancel")
    assert (told.kind, told.error) == ("unavailable", "the job server answered 500")


async def hang(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def html(_: web.Request) -> web.Response:
    """Answer with HTML."""
    return web.Response(text="<html>It works!</html>", content_type="text/html")


async def huge(_: web.Request) -> web.Response:
    """Answer with more than the limit."""
    return web.Response(body=b'{"state": "done", "x": "' + b"x" * 20_000 + b'"}')


async def cut(request: web.Request) -> web.StreamResponse:
    """Cut the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def elsewhere(_: web.Request) -> web.Response:
    """Redirect to another place."""
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def deep(_: web.Request) -> web.Response:
    """Answer with JSON that is nested too deeply."""
    return web.Response(body=b"[" * 5_000 + b"]" * 5_000)


@pytest.mark.parametrize(
    ("handler", "kind", "error"),
    [
        (hang, "unavailable", "the job server did not answer in time"),
        (html, "progress", "the job server gave an unreadable answer: Expecting value at character 0"),
        (deep, "progress", ""),  # JSON or not, depending on the interpreter
        (huge, "unavailable", "the job server's reply is larger than 10000 bytes"),
        (cut, "unavailable", "the job server closed the connection before its reply"),
        (elsewhere, "progress", "the job server answered 302"),
    ],
)
@pytest.mark.parametrize("call", ["outcome", "status"])
async def test_what_is_no_sound_answer_says_nothing_of_the_job(
    bench: Bench, handler: Handler, kind: str, error: str, call: str
) -> None:
    """It hangs, is HTML, is too large, breaks off, or redirects: the job may go on."""
    await bench.start()
    bench.answers["/jobs/7"] = handler
    told = await bench.ask(call, timeout_s=0.3 if handler is hang else IN_VAIN_S)
    assert (told.kind, told.state, told.body) == (kind, "", b"")
    assert told.error.endswith(error)
    assert [path for _, path, *_ in bench.seen] == ["/jobs/7"]


@pytest.mark.parametrize(
    ("times", "kind", "error"),
    [(1_600, "succeeded", ""), (1_700, "unavailable", "the result is larger than 10000 bytes")],
)
async def test_a_result_is_as_large_as_an_answer_may_be(bench: Bench, times: int, kind: str, error: str) -> None:
    """An expression can make the result larger than the answer, but it escapes nothing that was not escaped."""

    async def data(_: web.Request) -> web.Response:
        return web.json_response({"data": "\ud55c" * times}, dumps=functools.partial(json.dumps, ensure_ascii=False))

    await bench.start(WITH_RESULT.replace("body.data", "[body.data, body.data]"))
    bench.answer("/jobs/7", {"state": "done"})
    bench.answers["/jobs/7/result"] = data
    told = await bench.ask()
    assert (told.kind, told.error) == (kind, error)
    assert len(told.body) == (6 * times + 8 if kind == "succeeded" else 0)


async def test_a_call_may_have_a_body(bench: Bench) -> None:
    """Some job servers are asked by a POST, as by JSON-RPC."""
    profile = PROFILE.replace("[cancel]", 'method = "POST"\nbody = { task = "{id}", key = "{env:KEY}" }\n\n[cancel]')
    profile += '\n[result]\nmethod = "POST"\nurl = "/result"\nbody = { id = ["{id}"] }\n'
    await bench.start(profile)
    bench.answer("/jobs/7", {"state": "done"})
    bench.answer("/result", {"data": 1})
    assert (await bench.ask()).body == b'{"data": 1}'
    assert [(method, json.loads(body), headers["content-type"]) for method, _, headers, body in bench.seen] == [
        ("POST", {"task": "7", "key": "secret"}, "application/json"),
        ("POST", {"id": ["7"]}, "application/json"),
    ]


@pytest.mark.parametrize(("name", "value"), [("x", "1"), ("id", "..")])
@pytest.mark.parametrize("call", ["outcome", "status", "cancel"])
async def test_a_call_that_cannot_be_made_is_told(bench: Bench, call: str, name: str, value: str) -> None:
    """A name is missing, or its value would change the path."""
    await bench.start()
    told = await bench.ask(call, IN_VAIN_S, **{name: value})
    assert told.kind == "unavailable"
    assert told.error.startswith("the call cannot be made: ")
    assert bench.seen == []


async def test_a_job_server_that_is_not_there_is_told(bench: Bench) -> None:
    """Like any other failure."""
    await bench.start()
    server = JobServer(url="http://127.0.0.1:9/", profile=loader.parse(PROFILE), secrets={"env:KEY": "secret"})
    config = WorkerConfig(
        job_servers=(server,), max_body_bytes=10_000, submit_retries=0, lost_reply_wait_s=0, max_jobs=0
    )
    servers = JobServers(config)
    ask = Ask(job_id="j", profile="", call="outcome", values='{"id": "7"}', deadline=time.monotonic() + IN_VAIN_S)
    told = await servers.asker("").tell(ask)
    servers.close()
    assert told.kind == "unavailable"
    assert told.error.startswith("no connection to the job server")


async def test_a_call_beside_a_submission_does_not_say_that_the_submission_is_connected(bench: Bench) -> None:
    """The two share a client, and events of one must not be taken for events of the other."""
    await bench.start()
    bench.answers["/"] = hang
    bench.answer("/jobs/7", {"state": "half"})
    events: list[Event] = []
    job = Assign(job_id="0" * 32, callback_url="http://proxy/t", deadline=time.monotonic() + IN_VAIN_S, body=b"{}")
    submission = asyncio.create_task(bench.servers.client("").submit(job, events.append, asyncio.Event().wait))
    await eventually(lambda: bench.seen)
    assert (await bench.ask()).state == "half"
    assert events == [Event.CONNECTED]
    submission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submission
