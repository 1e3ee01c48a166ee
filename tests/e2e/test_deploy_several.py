"""deploy/nginx.conf and deploy/haproxy.cfg before several instances: what may be sent to a second one, and what not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from cluster.processes import reserve
from tests.support.gateways import running
from tests.support.http import Answer, fetch

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_FULL = b'{"code": "overloaded", "submitted": "no"}'
_503 = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(_FULL), _FULL)


class Fake:
    """A stand-in for an instance, which does with each request, except health checks, what the test says."""

    def __init__(self) -> None:
        self.answer: bytes = _OK
        #: The first line of every request.
        self.seen: list[str] = []
        self._connections: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Stop listening, and close every connection."""
        self._server.close()
        for writer in list(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(OSError, EOFError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
                line = head.partition(b" HTTP")[0].decode()
                answer = _OK
                if not line.endswith("z"):
                    self.seen.append(line)
                    answer = self.answer
                if not answer:
                    break
                writer.write(answer)
                await writer.drain()
        self._connections.discard(writer)
        writer.close()


@pytest.fixture
def fakes() -> list[Fake]:
    """Stand-ins for three instances."""
    return [Fake() for _ in range(3)]


@pytest.fixture(params=["nginx", "haproxy"])
async def entry(request: pytest.FixtureRequest, fakes: list[Fake], tmp_path: Path, *, tls: bool) -> AsyncIterator[str]:
    """The address of a gateway before them."""
    with contextlib.closing(reserve()) as reservation:
        port = reservation.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(fake) for fake in fakes]
            gateway = running(request.param, port, urls, tmp_path, tls=tls)
            url = (await asyncio.to_thread(gateway.__enter__)).url
            try:
                yield url
            finally:
                await asyncio.to_thread(gateway.__exit__, None, None, None)


@pytest.fixture
def tls() -> bool:
    """Whether the gateway speaks TLS, and so HTTP/2; a test may replace it."""
    return False


async def ask(client: ClientSession, entry: str, path: str, times: int = 6, method: str = "POST") -> list[Answer]:
    """Ask often enough for every instance to get its turn."""
    data = b"{}" if method == "POST" else None
    return [await fetch(client, method, f"{entry}{path}", data=data) for _ in range(times)]


def counts(fakes: list[Fake]) -> list[int]:
    """Return how many requests each has seen."""
    return [len(fake.seen) for fake in fakes]


async def test_jobs_are_spread_and_each_goes_to_one(entry: str, fakes: list[Fake], client: ClientSession) -> None:
    """In turn, and never twice."""
    answers = await ask(client, entry, "/queueJob")
    assert [answer.status for answer in answers] == [200] * 6
    assert counts(fakes) == [2, 2, 2]


async def test_an_instance_that_is_gone_costs_no_job(entry: str, fakes: list[Fake], client: ClientSession) -> None:
    """Nothing could be sent to it, so another one gets its requests."""
    await fakes[1].leave()
    answers = await ask(client, entry, "/queueJob", 9)
    assert [answer.status for answer in answers] == [200] * 9
    assert sum(counts(fakes)) == 9
    assert not fakes[1].seen


async def test_an_instance_that_refuses_costs_no_job(entry: str, fakes: list[Fake], client: ClientSession) -> None:
    """A 503 means that nothing began."""
    fakes[0].answer = _503
    answers = await ask(client, entry, "/queueJob", 9)
    assert [answer.status for answer in answers] == [200] * 9
    assert len(fakes[1].seen) + len(fakes[2].seen) == 9
    assert fakes[0].seen


async def test_where_all_refuse_the_client_learns_why(entry: str, fakes: list[Fake], client: ClientSession) -> None:
    """The proxy's own answer gets through, with its retry advice; no instance is left out for the next job."""
    for fake in fakes:
        fake.answer = _503
    for answer in await ask(client, entry, "/queueJob"):
        assert (answer.status, answer.body, answer.headers["Retry-After"]) == (503, _FULL, "1")
    for fake in fakes:
        fake.answer = _OK
    assert [answer.status for answer in await ask(client, entry, "/queueJob")] == [200] * 6


@pytest.mark.parametrize("gone", [False, True])
async def test_a_job_that_an_instance_may_have_begun_goes_to_no_other(
    entry: str, fakes: list[Fake], client: ClientSession, gone: bool
) -> None:
    """An instance that dies with a job may have submitted it: nobody knows, and the client is told so."""
    for fake in fakes:
        fake.answer = b""
    if gone:
        await fakes[2].leave()
    for answer in await ask(client, entry, "/queueJob"):
        assert answer.status in {502, 504}
        assert (answer.document["submitted"], answer.document["retry_safe"]) == ("unknown", False)
    assert sum(counts(fakes)) == 6


@pytest.mark.parametrize("tls", [True])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_a_client_that_sends_again_what_was_not_processed_runs_no_job_twice(
    entry: str, fakes: list[Fake], version: str
) -> None:
    """Such as curl: if a connection that was used before ends without an answer, it sends a job again."""
    fakes[1].answer = fakes[2].answer = b""
    command = ["curl", "--silent", "--insecure", version, "--data", "{}", "--write-out", " %{http_code}\n"]
    curl = await asyncio.create_subprocess_exec(*command, *[f"{entry}/queueJob"] * 6, stdout=asyncio.subprocess.PIPE)
    answers = (await curl.communicate())[0].decode().splitlines()
    assert sum(counts(fakes)) == 6
    assert sum(answer == "{} 200" for answer in answers) == len(fakes[0].seen)
    for answer in answers:
        assert answer == "{} 200" or ('"submitted": "unknown"' in answer and answer.endswith((" 502", " 504")))


async def test_a_callback_that_an_instance_lost_goes_to_another(
    entry: str, fakes: list[Fake], client: ClientSession
) -> None:
    """A repeated callback counts once."""
    fakes[0].answer = b""
    fakes[1].answer = _503
    answers = await ask(client, entry, "/callback/token")
    assert [answer.status for answer in answers] == [200] * 6
    assert len(fakes[2].seen) == 6
    assert fakes[0].seen


async def test_a_question_that_an_instance_lost_goes_to_another(
    entry: str, fakes: list[Fake], client: ClientSession
) -> None:
    """Every instance answers for every job."""
    fakes[0].answer = b""
    await fakes[1].leave()
    for method in ("GET", "DELETE"):
        answers = await ask(client, entry, "/jobs/1", method=method)
        assert [answer.status for answer in answers] == [200] * 6
    assert fakes[0].seen
