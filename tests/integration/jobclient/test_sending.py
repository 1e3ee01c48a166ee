"""The client against small servers on real sockets."""

import asyncio
import functools
import json
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer
from tenacity import AsyncRetrying, wait_none
from yarl import URL

from jobclient.options import Options
from jobclient.sending import run

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """What a server received."""

    bodies: list[object] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def note(self, request: web.Request) -> int:
        """Keep the request and return its number, from 1."""
        self.bodies.append(await request.json())
        self.keys.append(request.headers.get("Idempotency-Key"))
        self.paths.append(request.raw_path)
        return len(self.bodies)


@dataclass
class Servers:
    """Starts a server around a handler."""

    start: AiohttpServer

    async def url(self, handler: Handler) -> URL:
        """Return the address of a new server that answers every path with `handler`."""
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        server = await self.start(app)
        return server.make_url("/queueJob")


@pytest.fixture
def servers(aiohttp_server: AiohttpServer) -> Servers:
    """Servers of this test, closed at its end."""
    return Servers(aiohttp_server)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make retries follow each other at once."""
    monkeypatch.setattr("jobclient.sending._BACKOFF", wait_none())


def done(number: int) -> web.Response:
    """The answer for a completed job."""
    return web.json_response({"id": f"job-{number}", "state": "completed"})


def problem(status: int, code: str, *, retry_safe: bool, retry_after: str | None = None) -> web.Response:
    """The proxy's answer for a job that failed."""
    return web.json_response(
        {"code": code, "detail": "Words.", "status": status, "retry_safe": retry_safe},
        status=status,
        content_type="application/problem+json",
        headers={"Retry-After": retry_after} if retry_after else None,
    )


async def test_all_jobs_are_under_way_at_the_same_time(servers: Servers) -> None:
    """The server answers the first job only once it has received the last one, and the run still passes."""
    seen, everyone = Seen(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        number = await seen.note(request)
        if number == 60:
            everyone.set()
        await everyone.wait()
        return done(number)

    report = await run(Options(url=await servers.url(handler), jobs=60, account="acme", limit_s=30))

    assert report.passed
    assert (report.succeeded, report.ids, report.resent) == (60, 60, 0)
    assert seen.bodies == [{"account": "acme", "wait": True}] * 60
    assert seen.keys == [None] * 60


async def test_concurrency_limits_the_jobs_under_way(servers: Servers) -> None:
    """Never more open jobs than asked for, and all are sent in the end."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        seen.at_once += 1
        seen.most_at_once = max(seen.most_at_once, seen.at_once)
        number = await seen.note(request)
        # Let others arrive.
        await asyncio.sleep(0.001)
        seen.at_once -= 1
        return done(number)

    report = await run(Options(url=await servers.url(handler), jobs=20, concurrency=3))

    assert report.succeeded == 20
    assert seen.most_at_once <= 3


async def test_on_finished_is_called_once_a_job(servers: Servers) -> None:
    """The progress bar counts failed jobs as well."""
    seen, calls = Seen(), Counter[str]()

    async def handler(request: web.Request) -> web.Response:
        number = await seen.note(request)
        return done(number) if number % 2 else problem(500, "worker-died", retry_safe=False)

    await run(Options(url=await servers.url(handler), jobs=6), on_finished=lambda: calls.update(["job"]))

    assert calls["job"] == 6


async def test_the_address_and_the_key_are_sent_as_given(servers: Servers) -> None:
    """The path is not normalised, the API key is a bearer token, redirects are not followed."""
    seen = Seen()
    authorizations: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        await seen.note(request)
        authorizations.append(request.headers.get("Authorization"))
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    url = URL(f"{(await servers.url(handler)).origin()}/a%2Fb?x=%7E", encoded=True)
    report = await run(Options(url=url, jobs=1, api_key="secret"))

    assert seen.paths == ["/a%2Fb?x=%7E"]
    assert authorizations == ["Bearer secret"]
    assert [group.code for group in report.failures] == ["status-307"]


async def test_failures_are_grouped_by_code(servers: Servers) -> None:
    """Problems of the proxy and of a gateway are kept apart."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        match await seen.note(request) % 3:
            case 0:
                return problem(500, "deadline-exceeded", retry_safe=False)
            case 1:
                return web.Response(status=502, text="<html>Bad gateway</html>")
            case _:
                return web.json_response({"id": "1", "state": "running"})

    report = await run(Options(url=await servers.url(handler), jobs=9))

    assert {(group.status, group.code, group.count) for group in report.failures} == {
        (500, "deadline-exceeded", 3),
        (502, "status-502", 3),
        (200, "not-completed", 3),
    }
    assert not report.passed


async def test_a_job_that_certainly_did_not_run_is_sent_again(servers: Servers, no_backoff: None) -> None:
    """`retry_safe` is enough; no key is sent."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        number = await seen.note(request)
        return done(number) if number > 2 else problem(500, "worker-died", retry_safe=True)

    report = await run(Options(url=await servers.url(handler), jobs=1, retries=5))

    assert (report.succeeded, report.resent) == (1, 2)
    assert seen.keys == [None] * 3


async def test_without_retries_nothing_is_sent_again(servers: Servers) -> None:
    """Retrying has to be asked for."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        await seen.note(request)
        return problem(503, "overloaded", retry_safe=True, retry_after="9")

    report = await run(Options(url=await servers.url(handler), jobs=1))

    assert (report.failed, report.resent, len(seen.bodies)) == (1, 0, 1)


async def test_the_last_answer_counts_when_the_retries_are_used_up(servers: Servers, no_backoff: None) -> None:
    """N retries are N + 1 requests."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        number = await seen.note(request)
        return problem(503, f"code-{number}", retry_safe=True)

    report = await run(Options(url=await servers.url(handler), jobs=1, retries=2))

    assert len(seen.bodies) == 3
    assert [group.code for group in report.failures] == ["code-3"]


async def test_an_unknown_fate_is_never_sent_twice_without_a_key(servers: Servers, no_backoff: None) -> None:
    """The connection breaks after the request was read: the job may run."""
    seen = Seen()

    async def handler(request: web.Request) -> web.Response:
        await seen.note(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    report = await run(Options(url=await servers.url(handler), jobs=1, retries=5))

    assert len(seen.bodies) == 1
    assert [group.code for group in report.failures] == ["connection-broken"]


async def test_under_a_key_broken_connections_are_sent_again(servers: Servers, no_backoff: None) -> None:
    """Each job keeps its own key over all its attempts, a quoted UUID."""
    seen = Seen()
    attempts: Counter[str] = Counter()

    async def handler(request: web.Request) -> web.Response:
        await seen.note(request)
        key = request.headers["Idempotency-Key"]
        attempts[key] += 1
        if attempts[key] < 3:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.json_response({"id": key, "state": "completed"})

    report = await run(Options(url=await servers.url(handler), jobs=10, retries=5, idempotent=True))

    assert (report.succeeded, report.ids, report.resent) == (10, 10, 20)
    assert set(attempts.values()) == {3}
    assert len(attempts) == 10
    assert all(re.fullmatch(r'"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', key) for key in attempts)


async def test_a_half_answer_is_a_broken_connection(servers: Servers, no_backoff: None) -> None:
    """A 200 with a truncated body is no result."""
    seen = Seen()

    async def handler(request: web.Request) -> web.StreamResponse:
        number = await seen.note(request)
        if number == 2:
            return done(number)
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"state": "completed"')
        assert request.transport is not None
        request.transport.close()
        return response

    url = await servers.url(handler)
    report = await run(Options(url=url, jobs=1, retries=1, idempotent=True))
    assert (report.succeeded, report.resent) == (1, 1)


async def test_an_answer_that_never_comes_ends_at_the_timeout(servers: Servers) -> None:
    """The job fails with a code of its own and is not sent again without a key."""
    seen, never = Seen(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await seen.note(request)
        await never.wait()
        return done(1)

    report = await run(Options(url=await servers.url(handler), jobs=1, timeout_s=0.2, retries=3))
    never.set()

    assert [group.code for group in report.failures] == ["client-timeout"]
    assert len(seen.bodies) == 1


async def test_a_refused_connection_is_tried_again(no_backoff: None) -> None:
    """Nothing was sent, so it is retried even without a key."""
    with socket.socket() as reserved:
        # Bound but not listening: connections to it are refused, and nobody else takes the port.
        reserved.bind(("127.0.0.1", 0))
        url = URL(f"http://127.0.0.1:{reserved.getsockname()[1]}/")
        report = await run(Options(url=url, jobs=2, retries=3))

    assert report.resent == 6
    assert [(group.code, group.status, group.count) for group in report.failures] == [("connection-failed", None, 2)]


async def test_what_is_not_http_is_a_bad_answer(no_backoff: None) -> None:
    """A server that speaks another protocol breaks nothing."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        report = await run(Options(url=URL(f"http://127.0.0.1:{port}/"), jobs=1, retries=3))

    assert [group.code for group in report.failures] == ["bad-answer"]
    assert report.resent == 0


async def test_retry_after_is_honoured_and_bounded(
    servers: Servers, no_backoff: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is at least what the answer asks for, at most the timeout."""
    seen, pauses_s = Seen(), []

    async def sleep(pause_s: float) -> None:
        pauses_s.append(pause_s)

    monkeypatch.setattr("jobclient.sending.AsyncRetrying", functools.partial(AsyncRetrying, sleep=sleep))

    async def handler(request: web.Request) -> web.Response:
        number = await seen.note(request)
        match number:
            case 1:
                return problem(503, "overloaded", retry_safe=True, retry_after="1")
            case 2:
                return problem(503, "overloaded", retry_safe=True, retry_after="86400")
            case _:
                return done(number)

    report = await run(Options(url=await servers.url(handler), jobs=1, retries=2, timeout_s=60))

    assert report.succeeded == 1
    assert pauses_s == [1, 60]


def test_the_body_is_what_the_protocol_shows() -> None:
    """A job names its account, and asks to wait."""
    assert json.loads(Options(url=URL("http://x/")).body) == {"account": "example", "wait": True}
