"""One request and its reply: whatever a job server sends, the result is a reply or a truthful error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import math
import shutil
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDictProxy

from shared.errors import BadReplyError, JobServerError, UnavailableError
from shared.job_server.calls import Request
from tests.support.job_server import close_listener
from tests.support.waiting import IN_VAIN_S, eventually
from worker.connection import Address, Connection
from worker.exchange import Exchange

_TLS: Final = Path(__file__).parents[2] / "support" / "tls"
_CAP: Final = 100
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_JSON: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Reply = tuple[int, bytes]


class _Transport(asyncio.Transport):
    """Discards everything, and can be closed."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Discard it."""

    def abort(self) -> None:
        """Do nothing."""

    def is_closing(self) -> bool:
        """Return whether it is being closed."""
        return False


async def _fed(pieces: Sequence[bytes], end: BaseException | bool | None = None) -> Reply:
    """Return the reply that `pieces` make; `end`: False if the connection stays open, or its loss."""
    connection = Connection(asyncio.get_running_loop(), _CAP)
    connection.connection_made(_Transport())

    async def read() -> Reply:
        status, _ = await connection.request(b"")
        return status, await connection.read()

    reading = asyncio.ensure_future(read())
    for piece in pieces:
        await asyncio.sleep(0)
        connection.data_received(piece)
    if not isinstance(end, bool):
        connection.connection_lost(end)
    try:
        return await asyncio.wait_for(reading, IN_VAIN_S)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (_JSON, (200, b"{}")),
        (_OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", (200, b"{}")),
        (_OK + b"Content-Length: 0\r\n\r\n", (200, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _JSON, (200, b"{}")),
        (b"HTTP/1.0 429 Slow down\r\nContent-Length: 4\r\n\r\nbusy", (429, b"busy")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", (302, b"")),
        (_OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", (200, b"abc")),
        (_OK + b"Content-Length: 100\r\n\r\n" + b"x" * 100, (200, b"x" * 100)),
        (_JSON + _JSON.replace(b"{}", b"[]"), (200, b"{}")),
        (_JSON + b"<!-- served by -->", (200, b"{}")),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + _JSON + b"nonsense", (200, b"{}")),
        (_OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nnonsense", (200, b"{}")),
        (_OK + b"Content-Length: 0\r\n\r\nnonsense", (200, b"")),
    ],
)
async def test_a_whole_reply_needs_no_end_of_the_connection(sent: bytes, reply: Reply) -> None:
    """With a length or in chunks, after interim replies, at the size limit, whatever follows, in one piece or two."""
    assert await _fed([sent], end=False) == reply
    for at in range(1, len(sent)):
        assert await _fed([sent[:at], sent[at:]], end=False) == reply, at


async def test_informational_replies_without_an_end_take_no_memory() -> None:
    """They may come until the deadline."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"x" * 50_000)
    tracemalloc.start()
    try:
        assert await _fed([*itertools.repeat(interim, 100), _JSON], end=False) == (200, b"{}")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_a_reply_without_a_length_is_as_long_as_the_connection_stands() -> None:
    """As in HTTP/1.0; after a reset it is incomplete."""
    sent = [_OK + b"\r\n{", b"}"]
    assert await _fed(sent) == (200, b"{}")
    with pytest.raises(BadReplyError, match="was cut off"):
        await _fed(sent, ConnectionResetError(104, "reset by 10.1.2.3"))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "closed the connection before its reply"),
        (b"HTTP/1.1 200", "closed the connection before its reply"),
        (_OK + b"Content-Length: 2\r\n", "closed the connection before its reply"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection before its reply"),
    ],
)
async def test_a_connection_that_is_closed_before_the_reply_is_a_lost_reply(sent: bytes, words: str) -> None:
    """The job may be running: the callback is still waited for, and nothing is resent."""
    with pytest.raises(UnavailableError, match=words) as caught:
        await _fed([sent] if sent else [])
    assert (caught.value.lost_reply, caught.value.refused, caught.value.retryable) == (True, False, False)


@pytest.mark.parametrize(
    "broken",
    [
        ConnectionResetError(104, "by 10.1.2.3"),
        BrokenPipeError(32, "x"),
        TimeoutError(110, "x"),
        OSError(),
        ValueError(),
    ],
    ids=repr,
)
async def test_a_connection_that_breaks_is_a_lost_reply(broken: Exception) -> None:
    """The error's message, which may have an address, is not passed on."""
    with pytest.raises(UnavailableError, match="the connection to the job server broke") as caught:
        await _fed([_OK], broken)
    assert (caught.value.lost_reply, caught.value.refused) == (True, False)
    assert "10.1.2.3" not in caught.value.detail


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not valid HTTP"),
        (b"\x16\x03\x01\x02\x00", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "not valid HTTP"),
        (_OK + b"X: " + b"y" * 70_000, "not valid HTTP"),
        (_OK + b"X: y\r\n" * 200 + b"\r\n", "not valid HTTP"),
        (_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed|not valid HTTP"),
        (_OK + b"Content-Length: 101\r\n\r\n" + b"x" * 101, "larger than 100 bytes"),
        (_OK + b"\r\n" + b"x" * 101, "larger than 100 bytes"),
        (_OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + b"x" * 255, "larger than 100 bytes"),
        (_OK + b"Content-Length: 9999\r\n\r\n" + b"x" * 1_000, "larger than 100 bytes"),
    ],
)
async def test_a_reply_that_is_none_is_a_bad_one(sent: bytes, words: str) -> None:
    """It is unknown whether the job is running; the job server's bytes are not passed on."""
    with pytest.raises(BadReplyError, match=words) as caught:
        await _fed([sent])
    assert (caught.value.lost_reply, caught.value.refused, caught.value.retryable) == (False, False, False)


@pytest.mark.parametrize(
    "sent", [_OK + b"Content-Length: 3\r\n\r\n{}", _OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"]
)
@pytest.mark.parametrize("broken", [None, ConnectionResetError()])
async def test_a_reply_that_is_cut_off_is_a_lost_one(sent: bytes, broken: Exception | None) -> None:
    """The job may run: its callback may still come."""
    with pytest.raises(BadReplyError, match="was cut off or is malformed") as caught:
        await _fed([sent], broken)
    assert (caught.value.lost_reply, caught.value.refused) == (True, False)


async def test_a_large_body_is_refused_before_it_is_whole() -> None:
    """A job server that never stops sending is not waited for."""
    with pytest.raises(BadReplyError, match="larger"):
        await _fed([_OK + b"\r\n", *([b"x" * 30] * 4)], end=False)


@given(
    st.sampled_from([_JSON, _OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", _OK + b"\r\n{}"]),
    st.lists(st.integers(0, 90)),
)
def test_any_split_of_a_reply_gives_the_same(sent: bytes, cuts: list[int]) -> None:
    """It does not matter in which pieces it comes."""
    places = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    pieces = [sent[begin:end] for begin, end in itertools.pairwise(places)]
    assert asyncio.run(_fed(pieces)) == (200, b"{}")


_TOKENS: Final = st.sampled_from(
    [
        *(
            b"HTTP/1.1 ",
            b"HTTP/1.0 ",
            b"HTTP/9.9 ",
            b"200 OK\r\n",
            b"100 Continue\r\n\r\n",
            b"101 Switching\r\n",
            b"999\r\n",
        ),
        *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n"),
        *(
            b"Connection: upgrade\r\n",
            b"Content-Encoding: gzip\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
        ),
        *(b"ffffffffffffffff\r\n", b"1;x=y\r\na\r\n", b"X: \xff\x00\r\n", b" folded\r\n", b"{}", b"x" * 150),
    ]
)


@given(st.lists(_TOKENS | st.binary(max_size=20), max_size=12), st.sampled_from([None, ConnectionResetError(104, "x")]))
@example([_OK, b"Content-Length: 5\r\n\r\n", b"hello", _OK], None)
def test_whatever_comes_there_is_a_reply_or_an_error_of_ours(pieces: list[bytes], end: Exception | None) -> None:
    """And never an error that says that nothing was submitted, nor a body above the limit."""
    reply = asyncio.run(_reply_or_error([piece for piece in pieces if piece], end))
    if isinstance(reply, JobServerError):
        assert (reply.refused, reply.retryable) == (False, False)
    else:
        status, body = reply
        assert status >= 101
        assert len(body) <= _CAP


async def _reply_or_error(pieces: Sequence[bytes], end: BaseException | None) -> Reply | JobServerError:
    try:
        return await _fed(pieces, end)
    except JobServerError as exc:
        return exc


# --- connections ---------------------------------------------------------------------------------------------------


class _JobServer:
    """Answers every request with the same bytes."""

    def __init__(self) -> None:
        self.port = 0
        #: The requests of each connection.
        self.connections: list[list[bytes]] = []
        #: The answer, and whether the connection is closed after it.
        self.reply = _JSON
        self.closes = True
        #: Whether to read a request before the answer.
        self.hears = True
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        requests: list[bytes] = []
        self.connections.append(requests)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            while True:
                if self.hears:
                    requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.reply)
                if self.closes:
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def close(self) -> None:
        """Close all connections."""
        for writer in self._serving.values():
            writer.close()
        await asyncio.gather(*self._serving)


Serve = Callable[..., Awaitable[_JobServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts job servers."""
    started: list[tuple[asyncio.Server, _JobServer]] = []

    async def start(tls: ssl.SSLContext | None = None) -> _JobServer:
        job_server = _JobServer()
        server = await asyncio.start_server(job_server.serve, "127.0.0.1", 0, ssl=tls)
        started.append((server, job_server))
        job_server.port = server.sockets[0].getsockname()[1]
        return job_server

    yield start
    for server, job_server in started:
        await close_listener(server)
        await job_server.close()


def _request(url: str, method: str = "GET", **headers: str) -> Request:
    return Request(method=method, url=url, headers=headers)


async def _make(url: str, *, cafile: str = "", **headers: str) -> Reply:
    exchange = Exchange(keep_alive=False, max_body_bytes=_CAP, cafile=cafile)
    answer = await exchange.make(_request(url, **headers))
    return answer.status, answer.body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_server_is_reached_by_its_address_and_by_its_name(serve: Serve, host: str) -> None:
    """With and without name resolution."""
    assert await _make(f"http://{host}:{(await serve()).port}/start") == (200, b"{}")


async def test_the_next_address_of_a_name_is_tried_where_one_refuses(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with several addresses works if one of them answers."""
    port, closed = (await serve()).port, _closed_port()
    monkeypatch.setattr(socket, "getaddrinfo", _name_of(("127.0.0.1", closed), ("127.0.0.1", port)))
    assert await _make("http://jobs.example/start") == (200, b"{}")


async def test_every_reason_counts_where_no_address_of_a_name_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one for IPv6 and another for IPv4."""
    monkeypatch.setattr(socket, "getaddrinfo", _name_of(("255.255.255.255", 80), ("127.0.0.1", _closed_port())))
    with pytest.raises(UnavailableError, match="network is unreachable, connection refused") as caught:
        await _make("http://jobs.example/start")
    assert (caught.value.refused, caught.value.retryable) == (True, True)


def _name_of(*addresses: tuple[str, int]) -> Callable[..., list[Any]]:
    """Return a `getaddrinfo` that finds these for every name."""

    def look_up(*_: object, flags: int, **_named: object) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    return look_up


@pytest.mark.parametrize("name", ["jobs.invalid", f"{'x' * 64}.example", "a..b"])
async def test_a_name_that_does_not_resolve_is_a_refusal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was submitted, and a retry may succeed."""

    def fail(host: str, *_args: object, **_named: object) -> None:
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    address = Address("host", 80, trust=None, cap_bytes=_CAP)
    address._host = name  # noqa: SLF001 - after the check whether it is a number
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UnavailableError, match="name could not be resolved") as caught:
        await address.connect()
    assert (caught.value.refused, caught.value.retryable) == (True, True)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_name_for_whose_look_up_there_is_no_thread_is_a_refusal(
    new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of processes counts threads, too; uvloop's own threads, of which Python knows nothing, as well."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def connect() -> UnavailableError:
        address = Address("jobs.invalid", 80, trust=None, cap_bytes=_CAP)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(UnavailableError, match="no more threads can be started") as caught:
                await address.connect()
        return caught.value

    with asyncio.Runner(loop_factory=new_loop) as runner:
        refusal = runner.run(connect())
    assert (refusal.refused, refusal.retryable) == (True, True)


async def test_a_port_that_nobody_listens_on_is_a_refusal() -> None:
    """The same."""
    with pytest.raises(UnavailableError, match="no connection to the job server: connection refused") as caught:
        await _make(f"http://127.0.0.1:{_closed_port()}/")
    assert (caught.value.refused, caught.value.retryable, caught.value.lost_reply) == (True, True, False)


async def test_tls_is_spoken_with_a_server_that_can_be_trusted(serve: Serve) -> None:
    """The certificates of a file count in addition to the system's."""
    port = (await serve(_server_tls())).port
    assert await _make(f"https://localhost:{port}/", cafile=str(_TLS / "cert.pem")) == (200, b"{}")


async def test_whom_to_trust_is_read_again_where_the_file_was_replaced(serve: Serve, tmp_path: Path) -> None:
    """Even after earlier connections; a missing or incomplete file changes nothing."""
    port, file = (await serve(_server_tls())).port, tmp_path / "ca.pem"
    shutil.copy(_TLS / "expired.pem", file)
    exchange = Exchange(keep_alive=False, max_body_bytes=_CAP, cafile=str(file))

    async def answered() -> int:
        return (await exchange.make(_request(f"https://localhost:{port}/"))).status

    with pytest.raises(UnavailableError, match="certificate was not accepted"):
        await answered()
    shutil.copy(_TLS / "cert.pem", file)
    assert await answered() == 200
    file.write_text("-----BEGIN CERTIFICATE-----\nhalf", encoding="ascii")
    assert await answered() == 200
    file.unlink()
    assert await answered() == 200
    shutil.copy(_TLS / "expired.pem", file)
    with pytest.raises(UnavailableError, match="certificate was not accepted"):
        await answered()


async def test_tls_that_cannot_be_trusted_or_is_none_is_a_refusal(serve: Serve) -> None:
    """Nothing was submitted; a retry would change nothing."""
    plain = await serve()
    plain.hears = False
    secret = await serve(_server_tls())
    for job_server, words in ((secret, "certificate was not accepted"), (plain, "does not speak TLS")):
        with pytest.raises(UnavailableError, match=f"no TLS connection to the job server: .*{words}") as caught:
            await _make(f"https://localhost:{job_server.port}/")
        assert (caught.value.refused, caught.value.retryable) == (True, False)


async def test_a_server_that_resets_the_connection_is_a_lost_reply() -> None:
    """Over a real socket: the request was written, and it is unknown whether it was read."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        with pytest.raises(UnavailableError, match="connection reset by peer") as caught:
            await _make(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert (caught.value.refused, caught.value.lost_reply) == (False, True)


# --- compressed answers --------------------------------------------------------------------------------------------


def _packed(body: bytes, coding: bytes) -> bytes:
    return _OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(body), body)


async def test_an_answer_that_was_compressed_though_nobody_asked_for_it_is_inflated(serve: Serve) -> None:
    """Some gateways always compress; the compressed bytes would be mistaken for the result."""
    job_server = await serve()
    job_server.reply = _packed(gzip.compress(b'{"a": 1}'), b"gzip")
    assert await _make(f"http://127.0.0.1:{job_server.port}/") == (200, b'{"a": 1}')


@pytest.mark.parametrize(
    ("body", "coding", "words"),
    [
        (gzip.compress(b"x" * 101, mtime=0), b"gzip", "too large: inflated, it is larger than 100 bytes"),
        (gzip.compress(b"{}", mtime=0)[:-3], b"gzip", "it is not gzip"),
        (b"\x8b\x02\x80", b"br", "neither gzip nor identity"),
    ],
)
async def test_an_answer_that_cannot_be_inflated_is_a_bad_one(
    serve: Serve, body: bytes, coding: bytes, words: str
) -> None:
    """It is no result."""
    job_server = await serve()
    job_server.reply = _packed(body, coding)
    with pytest.raises(BadReplyError, match=words):
        await _make(f"http://127.0.0.1:{job_server.port}/")


# --- kept connections ----------------------------------------------------------------------------------------------


async def test_a_kept_connection_serves_one_request_after_the_other(serve: Serve) -> None:
    """Concurrent ones have one each, and all of these are reused."""
    job_server = await serve()
    job_server.closes = False
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)
    request = _request(f"http://127.0.0.1:{job_server.port}/", "POST")
    for _ in range(3):
        assert (await exchange.make(request)).body == b"{}"
    assert [len(requests) for requests in job_server.connections] == [3]
    await asyncio.gather(exchange.make(request), exchange.make(request))
    await asyncio.gather(exchange.make(request), exchange.make(request))
    assert sorted(len(requests) for requests in job_server.connections) == [2, 5]


@pytest.mark.parametrize(
    "reply",
    [
        _JSON.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n"),
        _JSON.replace(b"1.1", b"1.0"),
        _JSON + _JSON,
        _JSON + b"more",
        b"HTTP/1.1 400 No\r\nContent-Length: 9\r\n\r\nhalf",
    ],
)
async def test_a_connection_is_kept_only_after_a_whole_reply_and_nothing_else(serve: Serve, reply: bytes) -> None:
    """Extra bytes would be mistaken for the next reply."""
    job_server = await serve()
    job_server.closes, job_server.reply = False, reply
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)

    def refuse(status: int, _: object) -> None:
        if status == 400:
            raise BadReplyError("refused before its body was read")

    for _ in range(2):
        with contextlib.suppress(BadReplyError):
            await exchange.make(_request(f"http://127.0.0.1:{job_server.port}/"), check_status=refuse)
    assert len(job_server.connections) == 2


class _Closing(Connection):
    """Is closed by the server as soon as something is sent."""

    async def request(self, data: bytes) -> tuple[int, CIMultiDictProxy[str]]:
        """Send, and fail."""
        self._loop.call_soon(self.connection_lost, None)
        return await super().request(data)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_what_is_closed_when_it_is_used_again_is_a_lost_reply(serve: Serve, method: str) -> None:
    """The request may have been read: whatever HTTP says about its method, it is never resent."""
    job_server = await serve()
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)
    request = _request(f"http://127.0.0.1:{job_server.port}/", method)
    kept = _Closing(asyncio.get_running_loop(), _CAP)
    kept.connection_made(_Transport())
    kept.data_received(_JSON)
    exchange._idle[exchange.prepare(method, request.url).address] = [(kept, time.monotonic())]  # noqa: SLF001 - as if it had been used
    with pytest.raises(UnavailableError) as caught:
        await exchange.make(request)
    assert caught.value.lost_reply
    assert not job_server.connections


async def test_a_connection_whose_end_was_just_read_is_not_used(serve: Serve) -> None:
    """Its loss is reported in the next iteration of the event loop; until then, what is written there is dropped."""
    job_server = await serve()
    job_server.closes = False
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)
    request = _request(f"http://127.0.0.1:{job_server.port}/", "POST")
    await exchange.make(request)
    ((kept, _),) = (idle for one in exchange._idle.values() for idle in one)  # noqa: SLF001 - what it has kept
    assert kept.transport is not None
    kept.transport.close()  # as the event loop does when it has read the end
    assert (await exchange.make(request)).body == b"{}"


async def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(serve: Serve) -> None:
    """A new one is opened, and nothing is lost."""
    job_server = await serve()
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)
    request = _request(f"http://127.0.0.1:{job_server.port}/", "POST")
    for _ in range(2):
        assert (await exchange.make(request)).body == b"{}"
        await eventually(lambda: not any(kept.is_reusable for idle in exchange._idle.values() for kept, _ in idle))  # noqa: SLF001
    assert len(job_server.connections) == 2


async def test_a_connection_that_was_idle_for_long_is_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may be closing it, or a gateway may have forgotten it: a request on it would be lost."""
    job_server = await serve()
    job_server.closes = False
    exchange = Exchange(keep_alive=True, max_body_bytes=_CAP)
    request = _request(f"http://127.0.0.1:{job_server.port}/", "POST")
    for idle_s, connections in (math.inf, 1), (math.inf, 1), (0.0, 2):
        monkeypatch.setattr("worker.exchange._IDLE_S", idle_s)
        assert (await exchange.make(request)).body == b"{}"
        assert len(job_server.connections) == connections
    exchange.close()


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/start", b"GET /start HTTP/1.1"),
        ("?a=b%20c", b"GET /?a=b%20c HTTP/1.1"),
        ("/x y/\u00fc", b"GET /x%20y/%C3%BC HTTP/1.1"),
    ],
)
async def test_a_requests_first_line_comes_from_the_url(serve: Serve, path: str, line: bytes) -> None:
    """Encoded as HTTP requires."""
    job_server = await serve()
    await _make(f"http://127.0.0.1:{job_server.port}{path}")
    lines = job_server.connections[0][0].splitlines()
    assert lines[0] == line
    assert f"Host: 127.0.0.1:{job_server.port}".encode() in lines
    assert b"Connection: close" in lines


async def test_a_requests_own_headers_come_before_the_usual_ones(serve: Serve) -> None:
    """Ignoring case; a user in the URL authenticates, unless the request says otherwise."""
    job_server = await serve()
    url = f"http://me:p%40ss@127.0.0.1:{job_server.port}/"
    await _make(url)
    await _make(url, authorization="Bearer x", accept="text/plain")
    first, second = (requests[0].splitlines() for requests in job_server.connections)
    assert b"Authorization: Basic bWU6cEBzcw==" in first
    assert b"Accept: application/json" in first
    assert [line for line in second if line.lower().startswith((b"accept:", b"authorization:"))] == [
        b"authorization: Bearer x",
        b"accept: text/plain",
    ]


async def test_a_password_is_sent_as_utf_8(serve: Serve) -> None:
    """RFC 7617, 2.1; no other encoding has every character."""
    job_server = await serve()
    await _make(f"http://me:%E2%82%AC@127.0.0.1:{job_server.port}/")
    assert b"Authorization: Basic bWU64oKs" in job_server.connections[0][0].splitlines()


@pytest.mark.parametrize(("method", "body", "lengths"), [("GET", b"", 0), ("POST", b"", 1), ("PUT", b"x", 1)])
async def test_a_length_is_told_where_there_is_or_might_be_a_body(
    serve: Serve, method: str, body: bytes, lengths: int
) -> None:
    """RFC 9110, 8.6."""
    job_server = await serve()
    exchange = Exchange(keep_alive=False, max_body_bytes=_CAP)
    await exchange.make(Request(method=method, url=f"http://127.0.0.1:{job_server.port}/", headers={}, body=body))
    lines = job_server.connections[0][0].splitlines()
    assert lines.count(f"Content-Length: {len(body)}".encode()) == lengths


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_what_has_no_body_has_no_type(serve: Serve, method: str) -> None:
    """Fastify refuses an empty body that is called JSON: no job was ever cancelled there."""
    job_server = await serve()
    exchange = Exchange(keep_alive=False, max_body_bytes=_CAP)
    await exchange.make(Request(method=method, url=f"http://127.0.0.1:{job_server.port}/", headers={}))
    assert b"content-type" not in job_server.connections[0][0].lower()


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "\u2028"])
async def test_a_field_that_could_be_read_as_two_is_refused(value: str) -> None:
    """Wherever it comes from."""
    with pytest.raises(ValueError, match="more than one"):
        await _make("http://127.0.0.1:9/", traceparent=value)


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_TLS / "cert.pem", _TLS / "key.pem")
    return context


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://jobs/7?by=a%40b%2Fc&at=%3a+%7E", b"/7?by=a%40b%2Fc&at=%3a+%7E"),
        ("http://jobs/a%2Fb/%7e#part", b"/a%2Fb/%7e"),
        ("http://jobs", b"/"),
        ("http://jobs?a", b"/?a"),
        ("http://jobs/\u00e9 x?\u00e9", b"/%C3%A9%20x?%C3%A9"),
    ],
)
def test_a_url_is_sent_as_it_is(url: str, target: bytes) -> None:
    """A job server may have signed its text; only what cannot be sent is encoded."""
    route = Exchange(keep_alive=False, max_body_bytes=_CAP).prepare("GET", url)
    assert route.line == b"GET " + target + b" HTTP/1.1\r\n"
