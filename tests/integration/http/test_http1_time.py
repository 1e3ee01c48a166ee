"""HTTP/1.1 on a socket: how long a client may take, on the fast path and by Hypercorn, and how connections end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from functools import partial
from typing import Final

import pytest

from proxy.http import server as http_server
from proxy.http import time_limits
from proxy.http.connections import Room
from proxy.http.fair_turns import turns
from proxy.http.time_limits import Limits
from tests.support.listening import MAX_BYTES, Server, post, problem, serving, statuses, tls_context
from tests.support.waiting import IN_VAIN_S, eventually

_SHORT: Final = 0.2
_LONG: Final = 60.0
#: For a few iterations of the event loop, also on a busy machine.
_ENOUGH_S: Final = 1.0


@pytest.mark.parametrize("data", [b"", post("/first")], ids=["silent", "idle"])
async def test_a_connection_without_a_request_is_closed(data: bytes, fast: bool) -> None:
    """The first head has to arrive soon; after an answer, the connection stays open for a while."""
    limits = Limits(head_s=_LONG if data else _SHORT, keep_alive_s=_SHORT if data else _LONG)
    async with serving(fast=fast, limits=limits) as server:
        assert len(statuses(await server.ask(data, end=False))) == bool(data)


@pytest.mark.parametrize("before", [b"", post("/first")], ids=["first", "second"])
async def test_a_head_that_stalls_is_not_waited_for(before: bytes, fast: bool) -> None:
    """Its client gets an answer that says so."""
    async with serving(fast=fast, limits=Limits(head_s=_SHORT, keep_alive_s=_LONG)) as server:
        client = await server.connect()
        if before:
            client.writer.write(before)
            await client.answer()
        data = await client.ask(b"GET / HTTP/1.1\r\nHost")
        assert statuses(data) == [408]
        assert problem(data)["code"] == "request-timeout"


async def test_a_connection_stays_for_the_next_request(fast: bool) -> None:
    """For longer than a head may take."""
    async with serving(fast=fast, limits=Limits(head_s=_SHORT, keep_alive_s=_LONG)) as server:
        kept, silent = await server.connect(), await server.connect()
        kept.writer.write(post("/first"))
        await kept.answer()
        assert await silent.rest() == b""  # it was closed
        kept.writer.write(post("/second"))
        assert (await kept.answer())[0] == 200


async def test_a_request_that_comes_as_an_idle_connection_is_to_be_closed_is_answered(fast: bool) -> None:
    """It has arrived in time, and is read too late, because the event loop was busy with another connection.

    The loop looks at its timers before it reads again.
    """
    loop = asyncio.get_running_loop()
    async with serving(fast=fast, limits=Limits(keep_alive_s=_ENOUGH_S)) as server:
        other, busy = socket.socketpair()
        with socket.create_connection(("127.0.0.1", server.port), IN_VAIN_S) as client, other, busy:
            client.setblocking(False)

            def keep_busy() -> None:
                loop.remove_reader(busy)
                client.send(post("/second"))
                time.sleep(_ENOUGH_S + 0.1)

            client.send(post("/first"))
            assert statuses(await loop.sock_recv(client, 65_536)) == [200]
            loop.add_reader(busy, keep_busy)
            other.send(b"x")
            assert statuses(await loop.sock_recv(client, 65_536)) == [200]


async def test_a_request_under_way_is_not_idle(fast: bool) -> None:
    """The application may take as long as it likes."""
    async with serving(fast=fast, limits=Limits(head_s=_SHORT, keep_alive_s=_SHORT)) as server:
        client, idle = await server.connect(), await server.connect()
        client.writer.write(post("/wait"))
        await eventually(lambda: server.echo.seen)
        await idle.rest()  # it was closed
        server.echo.go_on.set()
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunks"])
@pytest.mark.parametrize("begun", [b"", b"5\r\nbegun\r\n"], ids=["nothing", "a piece"])
async def test_a_body_that_stalls_is_cut_off(framing: bytes, begun: bytes, fast: bool) -> None:
    """Its client gets an answer that says so, and can read it."""
    async with serving(fast=fast, limits=Limits(stall_s=_SHORT)) as server:
        data = await server.ask(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing, begun, end=False)
        assert statuses(data) == [408]
        assert problem(data)["code"] == "request-timeout"
        assert b"connection: close" in data.lower()


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_drips_is_cut_off(framing: bytes, fast: bool) -> None:
    """A byte now and then is progress, but not enough."""
    async with serving(fast=fast, limits=Limits(stall_s=0.5, least_bytes_per_s=1000)) as server:
        client = await server.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        answer = asyncio.ensure_future(client.rest())
        while not answer.done():
            with suppress(OSError):
                client.writer.write(b"1\r\nx\r\n")
            await asyncio.wait((answer,), timeout=0.05)
        assert statuses(answer.result()) == [408]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_may_take_long_if_it_keeps_coming(chunked: bool, fast: bool) -> None:
    """Several times as long as a stall may last."""
    async with serving(fast=fast, limits=Limits(stall_s=0.6, least_bytes_per_s=1000)) as server:
        client = await server.connect()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 20000"
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        for _ in range(20):
            client.writer.write(b"3e8\r\n" * chunked + b"x" * 1000 + b"\r\n" * chunked)
            await asyncio.sleep(0.1)
        client.writer.write(b"0\r\n\r\n" * chunked)
        status, _, body = await client.answer()
        assert (status, body.count(b"x")) == (200, 20_000)


async def test_an_answer_that_nobody_reads_is_given_up(fast: bool) -> None:
    """Other clients do not wait for it."""
    async with serving(fast=fast, limits=Limits(stall_s=_SHORT)) as server:
        server.echo.large = b"x" * 20_000_000
        client = await server.connect()
        client.stop_reading()
        client.writer.write(post("/large"))
        assert statuses(await server.ask(post("/canary"))) == [200]
        await eventually(lambda: not server.listener.connections)
        client.writer.transport.abort()


async def test_an_answer_that_is_given_up_ends_in_a_reset(fast: bool) -> None:
    """A mere close is how an answer in pieces ends for a client with HTTP/1.0, so it would look complete."""
    async with serving(fast=fast, limits=Limits(stall_s=_SHORT)) as server:
        server.echo.large = b"x" * 20_000_000
        client = await server.connect()
        client.stop_reading()
        client.writer.write(b"GET /large HTTP/1.0\r\n\r\n")
        await eventually(lambda: server.echo.seen and not server.listener.connections)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined] # it is a read transport as well
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_an_answer_may_take_long_if_it_is_read(fast: bool) -> None:
    """Several times as long as its reader may stall; it arrives whole."""
    async with serving(fast=fast, limits=Limits(stall_s=1.0, least_bytes_per_s=1000)) as server:
        server.echo.large = b"x" * 12_000_000
        client = await server.connect()
        client.writer.write(post("/large"))
        await client.reader.readuntil(b"\r\n\r\n")
        read = 0
        while read < len(server.echo.large):
            read += len(await client.reader.readexactly(300_000))
            await asyncio.sleep(0.1)
        assert read == 12_000_000


@pytest.mark.parametrize("tls", [False, True])
async def test_an_answer_on_a_slow_line_arrives(fast: bool, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the kernel takes nothing for longer than a reader may stall, and after the connection was closed."""
    monkeypatch.setattr(time_limits, "_LOOK_S", 0.05)
    if tls:
        monkeypatch.setattr(asyncio, "start_server", partial(asyncio.start_server, ssl_shutdown_timeout=0.5))
    async with serving(fast=fast, tls=tls, limits=Limits(stall_s=0.5, head_s=0.5)) as server:
        server.echo.large = b"x" * 160_000
        read = await asyncio.to_thread(_read_slowly, server.port, tls_context() if tls else None)
        assert read.count(b"x") == 160_000


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stops", [False, True], ids=["serving", "stopping"])
async def test_a_client_that_sends_for_long_after_its_refusal_can_read_it(fast: bool, tls: bool, stops: bool) -> None:
    """For several times as long as it may pause; also if the listener stops meanwhile."""
    async with serving(fast=fast, tls=tls, limits=Limits(head_s=0.3)) as server:
        asking = asyncio.create_task(asyncio.to_thread(_send_slowly, server.port, tls_context() if tls else None))
        await eventually(lambda: "/unread" in server.echo.seen)
        if stops:
            server.listener.stop()
        assert statuses(await asking) == [404]


async def test_a_client_that_sends_for_ever_after_its_refusal_is_cut_off(fast: bool) -> None:
    """Its connection would never be closed."""
    async with serving(fast=fast, limits=Limits(head_s=_SHORT, linger_s=_SHORT)) as server:
        client = await server.connect()
        client.writer.write(post("/unread", b"x" * 100)[:-100])
        while not client.writer.transport.is_closing():
            client.writer.write(b"x")
            await asyncio.sleep(0.01)
        await eventually(lambda: not server.listener.connections)


def _send_slowly(port: int, context: ssl.SSLContext | None) -> bytes:
    """Send a request that is refused at once, and its body in 1.5 s; return the answer."""
    connection = socket.create_connection(("127.0.0.1", port), IN_VAIN_S)
    with context.wrap_socket(connection) if context is not None else connection as client:
        client.sendall(post("/unread", b"x" * 30_000)[:-30_000])
        for _ in range(30):
            time.sleep(0.05)
            client.sendall(b"x" * 1000)
        return client.recv(65_536)


def _read_slowly(port: int, context: ssl.SSLContext | None) -> bytes:
    """Return what comes from `/large`, at 50 kB/s and with a small buffer."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(IN_VAIN_S)
        client.connect(("127.0.0.1", port))
        with context.wrap_socket(client) if context is not None else client as reading:
            reading.sendall(post("/large", b"", b"Connection: close"))
            data = b""
            with suppress(ConnectionError, ssl.SSLError):
                while more := reading.recv(1000):
                    data += more
                    time.sleep(0.02)
            return data


async def test_a_listener_that_stops_closes_idle_connections_and_finishes_answers(server: Server) -> None:
    """Idle ones at once, the others with `connection: close`."""
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


async def test_a_request_that_has_arrived_when_a_listener_stops_is_answered(server: Server) -> None:
    """It was not read yet: without an answer, nobody could know whether it was processed."""
    with socket.create_connection(("127.0.0.1", server.port), IN_VAIN_S) as client:
        client.sendall(post("/first"))
        assert statuses(await asyncio.to_thread(client.recv, 65_536)) == [200]
        client.sendall(post("/second"))
        server.listener.stop()
        answer = await asyncio.to_thread(client.recv, 65_536)
        assert statuses(answer) == [200]
        assert b"connection: close" in answer.lower()
    await server.listener.stopped()


@pytest.mark.parametrize("size", [2, MAX_BYTES // 2])
async def test_connections_that_the_kernel_has_accepted_when_a_listener_stops_are_served(
    server: Server, size: int
) -> None:
    """Closing the listening socket would reset them, and nobody could know what became of their requests."""
    assert statuses(await server.ask(post("/first"))) == [200]  # the listener has started
    clients = [socket.create_connection(("127.0.0.1", server.port), IN_VAIN_S) for _ in range(20)]
    for client in clients:
        client.sendall(post("/queued", b"x" * size))
    server.listener.stop()
    for client in clients:
        answer = await asyncio.to_thread(client.recv, 65_536)
        client.close()
        assert statuses(answer) == [200]
        assert b"connection: close" in answer.lower()
    await server.listener.stopped()


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunks"])
async def test_a_body_that_is_incomplete_when_a_listener_closes_is_refused(
    server: Server, framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer, its client would have to take its job's fate for unknown."""
    monkeypatch.setattr(http_server, "_FINISH_S", _SHORT)
    client = await server.connect()
    client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n5\r\nbegun\r\n" % framing)
    await eventually(lambda: server.echo.seen)
    server.listener.stop()
    await server.listener.stopped()
    data = await client.rest()
    assert statuses(data) == [503]
    assert problem(data)["code"] == "shutting-down"


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_a_request_that_is_not_waited_for_when_a_listener_closes_is_refused(
    server: Server, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may wait for a database that is away; that is no bug, and its client is told to ask again."""
    monkeypatch.setattr(http_server, "_FINISH_S", _SHORT)
    client = await server.connect()
    client.writer.write(post("/wait").replace(b"POST", method.encode()))
    await eventually(lambda: server.echo.seen)
    server.listener.stop()
    await server.listener.stopped()
    data = await client.rest()
    assert statuses(data) == [503]
    assert server.refused == ["shutting-down"]
    if method == "POST":
        assert (problem(data)["code"], problem(data)["submitted"]) == ("shutting-down", "unknown")


_CHUNKED: Final = b"POST /late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize("sent", [post("/late"), _CHUNKED], ids=["plain", "chunks"])
async def test_a_request_that_follows_a_slow_handshake_is_answered(fast: bool, sent: bytes) -> None:
    """The kernel had accepted its connection before the listener stopped."""
    async with serving(fast=fast, tls=True) as server:
        client = await server.connect()
        server.listener.stop()
        await eventually(lambda: server.has_stopped)
        await client.writer.start_tls(tls_context())
        client.writer.write(sent)
        assert statuses(await client.rest()) == [200]


async def test_a_request_that_waits_for_its_turn_when_a_listener_stops_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read, and is not begun."""
    client = await server.connect()
    client.writer.write(_CHUNKED)
    status, head, _ = await client.answer()
    assert (status, b"connection: close" in head) == (200, False)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def take(_count: int = 1) -> None:
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr(turns, "take", take)
    client.writer.write(_CHUNKED)
    await asyncio.wait_for(waiting.wait(), IN_VAIN_S)
    server.listener.stop()
    await eventually(lambda: server.has_stopped)
    go_on.set()
    assert statuses(await client.rest()) == [200]
    await server.listener.stopped()


async def test_a_head_whose_end_waits_for_its_turn_has_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests may have arrived while the process was stopped. On the fast path, only a complete head waits."""
    go_on = asyncio.Event()
    taken: list[int] = []

    async def take(count: int = 1) -> None:
        taken.append(count)
        if len(taken) > 1:
            await go_on.wait()

    async with serving(fast=False, limits=Limits(head_s=_LONG)) as server:
        client = await server.connect()
        client.writer.write(post("/first"))
        await client.answer()
        monkeypatch.setattr(turns, "take", take)
        head = post("/second")
        client.writer.write(head[:20])
        await eventually(lambda: len(taken) == 1)
        client.writer.write(head[20:])
        await eventually(lambda: len(taken) == 2)
        (connection,) = vars(server.listener)["_connections"].open
        vars(connection)["_timer"].clear()
        connection._on_overdue()  # noqa: SLF001 - its time is over now
        for _ in range(5):  # for what that may have started
            await asyncio.sleep(0)
        go_on.set()
        assert (await client.answer())[0] == 200


async def test_a_listener_that_stops_refuses_new_connections(server: Server) -> None:
    """The client knows that nothing was sent."""
    assert statuses(await server.ask(post("/first"))) == [200]
    server.listener.stop()
    with pytest.raises(ConnectionRefusedError):
        await server.connect()
    await server.listener.stopped()


async def test_idle_connections_make_room_for_new_ones(fast: bool) -> None:
    """First those that never sent a request, then those that have been idle longest; a busy one stays open."""
    async with serving(fast=fast, room=Room(most=20)) as server:
        busy, used = await server.connect(), await server.connect()
        busy.writer.write(post("/wait"))
        used.writer.write(post("/first"))
        await used.answer()
        await eventually(lambda: "/wait" in server.echo.seen)
        silent = [await server.connect() for _ in range(60)]
        await eventually(lambda: server.listener.connections <= 20)
        for client in silent[-5:]:
            client.writer.write(post("/late"))
            assert (await client.answer())[0] == 200
        assert await silent[0].rest() == b""
        used.writer.write(post("/again"))
        assert (await used.answer())[0] == 200
        server.echo.go_on.set()
        assert (await busy.answer())[0] == 200


async def test_a_tls_handshake_that_stalls_is_not_waited_for(fast: bool) -> None:
    """Silent or stalled halfway: the connection is closed."""
    async with serving(fast=fast, limits=Limits(head_s=_SHORT), tls=True) as server:
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            assert not statuses(await server.ask(begun, end=False))
