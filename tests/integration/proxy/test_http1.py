"""HTTP/1.1 on a socket: a listener with an application that echoes, and clients that write bytes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.asgi import Guard, read_body, send_response
from proxy.http.fast import connection as http1
from proxy.http.fast.exchange import EXTENSION
from proxy.http.listening import bind
from proxy.http.server import Listener
from tests.support.waiting import eventually
from tests.unit.http.fast.test_head import NOT_PLAIN

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_MAX_BYTES: Final = 200_000
_TLS: Final = Path(__file__).parents[2] / "support" / "tls"


@dataclass
class Echo:
    """An application that answers with what it was asked."""

    seen: list[str] = field(default_factory=list)
    #: Requests for `/wait` are answered when this is set.
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    plain: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        self.seen.append(scope["path"])
        self.plain += EXTENSION in scope["extensions"]
        if scope["path"] == "/unread":
            await send_response(scope, send, 404, b"{}", b"application/json")
            return
        if scope["path"] == "/bug":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
            await send({"type": "http.response.body", "body": b""})
        if scope["path"] == "/stream":
            await self._stream(receive, send)
            return
        body = await read_body(scope, receive, _MAX_BYTES)
        if scope["path"] == "/wait":
            await self.go_on.wait()
        said = {"path": scope["path"], "query": scope["query_string"].decode(), "body": body.decode("latin-1")}
        await send_response(scope, send, 200, json.dumps(said).encode(), b"application/json")

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.append("gone")


@dataclass
class Server:
    """A listener, and what its application saw."""

    port: int
    echo: Echo
    listener: Listener
    clients: list[Client] = field(default_factory=list)

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        """Return a connection to it, which is closed at the end of the test."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context))
        self.clients.append(client)
        return client

    async def ask(self, *pieces: bytes, end: bool = True) -> bytes:
        """Write each of `pieces` by itself, then, if so told, an end; return all that comes until the other closes."""
        client = await self.connect()
        try:
            with suppress(OSError):  # closed already; shutdown(2) then says ENOTCONN, which is no ConnectionError
                for piece in pieces:
                    client.writer.write(piece)
                    await client.writer.drain()
                    await asyncio.sleep(0)  # the server shares this loop: let it read
                if end:
                    client.writer.write_eof()
            return await client.rest()
        finally:
            client.writer.close()


@dataclass
class Client:
    """A connection from the client's end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Read one answer that has a length; return its status, head and body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 15)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split(b" ")[1]), head.lower(), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the other side closes."""
        data = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(15):
                while more := await self.reader.read(65_536):
                    data += more
        return data


@asynccontextmanager
async def serving(**tls: str) -> AsyncIterator[Server]:
    """Serve the echo while the body runs."""
    sock = bind("HOST, PORT", "127.0.0.1", 0)
    sock.setblocking(False)
    port = sock.getsockname()[1]
    echo = Echo()
    listener = Listener(sock, Guard(echo), **tls)
    listener.start()
    try:
        server = Server(port, echo, listener)
        yield server
        for client in server.clients:
            client.writer.close()
    finally:
        echo.go_on.set()
        listener.stop()
        await listener.stopped()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A listener."""
    async with serving() as running:
        yield running


def post(path: str, body: bytes = b"", *fields: bytes) -> bytes:
    """Return a plain request."""
    lines = b"".join(b"%b\r\n" % line for line in fields)
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), lines, body)


def statuses(data: bytes) -> list[int]:
    """Return the statuses of the answers in `data`."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


async def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    """One after the other, and many that come in one piece; none of them is Hypercorn's."""
    client = await server.connect()
    for number in range(3):
        client.writer.write(post(f"/a%20b{number}?q={number}", b"x" * number))
        status, _, body = await client.answer()
        assert (status, json.loads(body)) == (
            200,
            {"path": f"/a b{number}", "query": f"q={number}", "body": "x" * number},
        )
    client.writer.write(b"".join(post(f"/{number}", b"b" * number) for number in range(40)))
    for number in range(40):
        _, head, body = await client.answer()
        assert json.loads(body)["path"] == f"/{number}"
        assert b"connection" not in head
    assert server.echo.plain == 43


@pytest.mark.parametrize("path", ["/", "/unread", "/wait"])
async def test_who_closes_the_sending_half_gets_every_answer(server: Server, path: str) -> None:
    """An end is not a disconnect."""
    asking = asyncio.ensure_future(server.ask(post(path, b"x") * 3))
    if path == "/wait":
        await eventually(lambda: server.echo.seen)
        server.echo.go_on.set()
    assert statuses(await asking) == [404 if path == "/unread" else 200] * 3


@pytest.mark.parametrize("path", ["/", "/unread"])
async def test_a_body_is_never_taken_for_a_request(server: Server, path: str) -> None:
    """Whether the application reads it or not, whether it comes with the head or after the answer."""
    hidden = post("/hidden")
    whole = post(path, hidden)
    await server.ask(whole + post("/next"))
    assert server.echo.seen == [path, "/next"]
    server.echo.seen.clear()
    head = len(whole) - len(hidden)
    await server.ask(whole[:head], whole[head:] + post("/next"))
    assert server.echo.seen in ([path], [path, "/next"])


@pytest.mark.parametrize("head", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
async def test_what_is_not_plain_hides_no_request(server: Server, head: bytes) -> None:
    """As the first request and as a second one: what follows it is seen by no application unless h11 says so."""
    body = b"1\r\nZ\r\n0\r\n\r\n" if b"chunked" in head.lower() else b"ZZZZ"
    for before in (b"", post("/first")):
        server.echo.seen.clear()
        data = await server.ask(before + head + b"\r\n" + body + post("/hidden"))
        seen = server.echo.seen[1:] if before else server.echo.seen
        if "/hidden" in seen:
            assert len(seen) == 2, data
            assert statuses(data).count(200) == 2 + bool(before), data


async def test_h11_refuses_what_smuggles(server: Server) -> None:
    """The classic ones, by name: each gets a 400 and a closed connection, and the application sees nothing."""
    for name in (
        "length and chunks",
        "space before the colon",
        "space before a length's colon",
        "two lengths",
        "negative length",
        "bare CR",
        "NUL in a value",
        "another coding",
    ):
        for body in (b"", b"0\r\n\r\n"):
            data = await server.ask(NOT_PLAIN[name] + b"\r\n" + body + post("/hidden"), end=False)
            assert statuses(data) in ([400], [501]), (name, data)
            assert not server.echo.seen, name


@given(st.lists(st.integers(0, 400), max_size=12).map(sorted))
def test_it_does_not_matter_how_requests_are_cut_up(cuts: list[int]) -> None:
    """Two requests and one whose body comes in chunks, in pieces that end anywhere."""
    chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    data = post("/a", b"first\r\n\r\nbody") + post("/b?q", b"", b"X: y") + chunked + post("/d", b"d")

    async def cut_up() -> bytes:
        ends = [*cuts, len(data)]
        async with serving() as running:
            return await running.ask(*(data[a:b] for a, b in zip([0, *cuts], ends, strict=True) if a < b))

    answers = asyncio.run(cut_up())
    assert statuses(answers) == [200] * 4
    bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert [body["path"] for body in bodies] == ["/a", "/b", "/c", "/d"]
    assert [body["body"] for body in bodies] == ["first\r\n\r\nbody", "", "abc", "d"]


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*NOT_PLAIN.values(), b"\r\n\r\n", b"\n"])), max_size=6)
)
def test_garbage_is_refused_and_others_are_served(pieces: list[bytes]) -> None:
    """Whatever comes, it ends in 4xx or nothing, at once or after a request; the next client is served."""

    async def offer() -> tuple[bytes, bytes]:
        async with serving() as running:
            garbage = await running.ask(*pieces)
            return garbage, await running.ask(post("/canary"))

    garbage, canary = asyncio.run(offer())
    assert all(status < 500 or status == 501 for status in statuses(garbage)), garbage
    assert statuses(canary) == [200]


async def test_a_question_before_the_body_is_answered(server: Server) -> None:
    """`Expect: 100-continue`, after a plain request on the same connection."""
    client = await server.connect()
    client.writer.write(post("/first"))
    await client.answer()
    client.writer.write(b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    client.writer.write(b"ok" + post("/last", b"l"))
    assert json.loads((await client.answer())[2])["body"] == "ok"
    assert json.loads((await client.answer())[2])["path"] == "/last"


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websockets\r\n\r\n", False),
    ],
    ids=["HTTP/1.0", "close", "HEAD", "upgrade"],
)
async def test_other_ways_to_ask(server: Server, head: bytes, closes: bool) -> None:
    """Each gets an answer; who wants the connection closed has it closed."""
    data = await server.ask(head, end=not closes)
    assert statuses(data) == [200]
    assert data.endswith(b"\r\n\r\n") == head.startswith(b"HEAD")
    assert (b"connection: close" in data.lower()) == closes


async def test_an_upgrade_to_http2_is_declined_and_leaves_nothing_behind(server: Server) -> None:
    """It is answered as HTTP/1.1; Hypercorn would take it up and keep two tasks of one that is broken off."""
    await server.ask(post("/first"))  # the listener is there
    before = len(asyncio.all_tasks())
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n"
    assert statuses(await server.ask(upgrade, b"ZZZZ"))[0] == 200
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_http2_with_prior_knowledge_is_refused(server: Server) -> None:
    """The preface gets one answer in HTTP/1.1, which says what is spoken here; then the connection closes."""
    settings = b"\0\0\0\4\0\0\0\0\0"
    for before in (b"", post("/first")):
        data = await server.ask(before + b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n", settings * 1000, end=False)
        assert statuses(data) == [200] * bool(before) + [505]
        assert b'"code": "http-version-not-supported"' in data
    assert set(server.echo.seen) == {"/first"}


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
async def test_http2_is_not_offered_by_tls(offered: list[str], chosen: str | None) -> None:
    """A client that can speak both speaks HTTP/1.1."""
    context = ssl.create_default_context(cafile=str(_TLS / "cert.pem"))
    context.check_hostname = False
    context.set_alpn_protocols(offered)
    async with serving(certfile=str(_TLS / "cert.pem"), keyfile=str(_TLS / "key.pem")) as running:
        client = await running.connect(context)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
        client.writer.write(post("/a"))
        assert (await client.answer())[0] == 200


async def test_a_body_over_the_cap_is_refused_so_that_the_client_can_read_it(server: Server) -> None:
    """With a length and without being sent, and while it is being sent: the answer comes whole, then the end."""
    for path in ("/", "/unread"):
        data = await server.ask(post(path, b"x" * (4 * _MAX_BYTES)))
        assert statuses(data) == [404 if path == "/unread" else 413]
        assert b"connection: close" in data
    head, _, _ = post("/", b"x" * (4 * _MAX_BYTES)).partition(b"\r\n\r\n")
    assert statuses(await server.ask(head + b"\r\n\r\n", end=False)) == [413]


async def test_a_body_that_ends_too_early_is_refused(server: Server) -> None:
    """And so is a head."""
    assert statuses(await server.ask(post("/", b"whole")[:-1])) == [400]
    assert statuses(await server.ask(post("/", b"whole")[:20])) in ([400], [])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    ],
    ids=["bytes", "bytes without end", "fields"],
)
async def test_a_head_has_an_upper_limit(server: Server, data: bytes) -> None:
    """431, and the connection closes."""
    assert statuses(await server.ask(data, end=False)) == [431]


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\nHost", post("/first")], ids=["silent", "in the head", "idle"]
)
async def test_a_connection_without_a_request_is_closed(
    server: Server, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `IDLE_S`, which is shorter here, counted from the last answer."""
    monkeypatch.setattr(http1, "IDLE_S", 0.2)
    assert len(statuses(await server.ask(data, end=False))) == bool(data.endswith(b"\r\n\r\n"))


async def test_a_request_under_way_is_not_idle(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application has as long as it likes."""
    monkeypatch.setattr(http1, "IDLE_S", 0.1)
    client, idle = await server.connect(), await server.connect()
    client.writer.write(post("/wait"))
    await eventually(lambda: server.echo.seen)
    await idle.rest()  # was closed
    server.echo.go_on.set()
    assert (await client.answer())[0] == 200
    assert await client.rest() == b""


async def test_a_listener_that_stops_closes_idle_connections_and_finishes_answers(server: Server) -> None:
    """At once the one, with `connection: close` the other."""
    idle, busy, begun = await server.connect(), await server.connect(), await server.connect()
    idle.writer.write(post("/first"))
    await idle.answer()
    begun.writer.write(b"GET /")
    busy.writer.write(post("/wait"))
    await eventually(lambda: "/wait" in server.echo.seen)
    server.listener.stop()
    assert await idle.rest() == b""
    assert await begun.rest() == b""
    server.echo.go_on.set()
    status, head, _ = await busy.answer()
    assert status == 200
    assert b"connection: close" in head
    assert await busy.rest() == b""
    await server.listener.stopped()


async def test_an_answer_without_a_length_comes_in_chunks_until_its_reader_leaves(server: Server) -> None:
    """As the dashboard's events do."""
    client = await server.connect()
    client.writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"transfer-encoding: chunked" in (await client.reader.readuntil(b"\r\n\r\n")).lower()
    assert await client.reader.readexactly(10) == b"5\r\nfirst\r\n"
    client.writer.transport.abort()
    await eventually(lambda: "gone" in server.echo.seen)


async def test_a_client_that_resets_takes_nothing_with_it(server: Server) -> None:
    """Its request is finished for nobody, and nothing is left behind that the loop has to complain of."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    client = await server.connect()
    client.writer.write(post("/wait") + post("/second"))
    await eventually(lambda: server.echo.seen)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()
    server.echo.go_on.set()
    assert statuses(await server.ask(post("/canary"))) == [200]
    assert not complaints


async def test_an_answer_that_nobody_reads_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `SEND_S`, which is shorter here; other clients do not wait."""
    monkeypatch.setattr(http1, "SEND_S", 0.2)
    client = await server.connect()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - this client does not read
    with suppress(ConnectionError):
        for _ in range(200):
            client.writer.write(post("/", b"x" * 100_000))
            await asyncio.wait_for(client.writer.drain(), 10)
    assert statuses(await server.ask(post("/canary"))) == [200]
    await eventually(lambda: not server.listener.connections)
    client.writer.transport.abort()


async def test_a_bug_in_an_answer_splits_nothing(server: Server) -> None:
    """A field with a line break closes the connection; none of it is sent."""
    assert await server.ask(post("/bug")) == b""


async def test_tls_is_served_the_same_way() -> None:
    """Plain requests, and the end of it."""
    context = ssl.create_default_context(cafile=str(_TLS / "cert.pem"))
    context.check_hostname = False
    async with serving(certfile=str(_TLS / "cert.pem"), keyfile=str(_TLS / "key.pem")) as running:
        client = await running.connect(context)
        client.writer.write(post("/a", b"b") + post("/b", b"x" * (2 * _MAX_BYTES)))
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 413
        assert running.echo.plain == 2
