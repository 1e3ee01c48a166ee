"""HTTP/1.1 on a socket: what is served, on the fast path and by Hypercorn."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from proxy.http import listening
from proxy.http.fair_turns import turns
from tests.support.listening import MAX_BYTES, Server, post, problem, serving, statuses, tls_context
from tests.support.waiting import IN_VAIN_S, eventually


async def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    """One at a time, and many that arrive in one piece; on the fast path, none of them goes to Hypercorn."""
    client = await server.connect()
    for number in range(3):
        client.writer.write(post(f"/a%20b{number}?q={number}", b"x" * number))
        status, _, body = await client.answer()
        assert status == 200
        assert json.loads(body) == {
            "path": f"/a b{number}",
            "query": f"q={number}",
            "body": "x" * number,
            "hosts": ["a"],
        }
    client.writer.write(b"".join(post(f"/{number}", b"b" * number) for number in range(40)))
    for number in range(40):
        _, head, body = await client.answer()
        assert json.loads(body)["path"] == f"/{number}"
        assert b"connection" not in head
    assert server.echo.fast == 43 * server.fast


@pytest.mark.parametrize("path", ["/", "/unread", "/wait"])
async def test_who_closes_the_sending_half_gets_every_answer(server: Server, path: str) -> None:
    """A half-closed connection is not a disconnect."""
    asking = asyncio.ensure_future(server.ask(post(path, b"x") * 3))
    if path == "/wait":
        await eventually(lambda: server.echo.seen)
        server.echo.go_on.set()
    assert statuses(await asking) == [404 if path == "/unread" else 200] * 3


@pytest.mark.parametrize("path", ["/", "/unread"])
async def test_a_body_is_never_taken_for_a_request(server: Server, path: str) -> None:
    """Whether or not the application reads it, whether it comes with the head or after the answer."""
    hidden = post("/hidden")
    whole = post(path, hidden)
    await server.ask(whole + post("/next"))
    assert server.echo.seen == [path, "/next"]
    server.echo.seen.clear()
    head = len(whole) - len(hidden)
    await server.ask(whole[:head], whole[head:] + post("/next"))
    assert server.echo.seen in ([path], [path, "/next"])


@given(st.lists(st.integers(0, 400), max_size=12).map(sorted), st.booleans())
def test_it_does_not_matter_how_requests_are_cut_up(cuts: list[int], fast: bool) -> None:
    """Two plain requests and one with a chunked body, split anywhere."""
    chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    data = post("/a", b"first\r\n\r\nbody") + post("/b?q", b"", b"X: y") + chunked + post("/d", b"d")

    async def cut_up() -> bytes:
        ends = [*cuts, len(data)]
        async with serving(fast=fast) as running:
            return await running.ask(*(data[a:b] for a, b in zip([0, *cuts], ends, strict=True) if a < b))

    answers = uvloop.run(cut_up())
    assert statuses(answers) == [200] * 4
    bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert [body["path"] for body in bodies] == ["/a", "/b", "/c", "/d"]
    assert [body["body"] for body in bodies] == ["first\r\n\r\nbody", "", "abc", "d"]


async def test_a_body_of_many_small_chunks_is_read(server: Server) -> None:
    """Thousands of one-byte chunks in one read; the next request is served as well."""
    chunks = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    head = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = await server.ask(head + chunks + post("/next"))
    assert statuses(data) == [200, 200]
    assert data.count(b"x") >= 20_000


async def test_who_waits_to_be_asked_for_the_body_is_asked(server: Server) -> None:
    """`Expect: 100-continue`, after a plain request on the same connection."""
    client = await server.connect()
    client.writer.write(post("/first"))
    await client.answer()
    client.writer.write(b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    client.writer.write(b"ok" + post("/last", b"l"))
    assert json.loads((await client.answer())[2])["body"] == "ok"
    assert json.loads((await client.answer())[2])["path"] == "/last"


async def test_who_waits_to_be_asked_is_refused_without_being_asked(server: Server) -> None:
    """Where the answer does not depend on the body, the body need not be sent (RFC 9110, 10.1.1)."""
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(await server.ask(head, end=False)) == [404]


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websockets\r\n\r\n", False),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", False),
    ],
    ids=["HTTP/1.0", "close", "HEAD", "upgrade", "HTTP/1.2"],
)
async def test_other_ways_to_ask(server: Server, head: bytes, closes: bool) -> None:
    """Each gets an answer, and the connection closes where the client asked for that."""
    data = await server.ask(head, end=not closes)
    assert statuses(data) == [200]
    assert data.endswith(b"\r\n\r\n") == head.startswith(b"HEAD")
    assert (b"connection: close" in data.lower()) == closes


async def test_the_answer_to_head_states_no_length_that_is_unknown(server: Server) -> None:
    """It would be the length of the answer to GET (RFC 9110, 9.3.2); the connection goes on."""
    data = await server.ask(b"HEAD /bare HTTP/1.1\r\nHost: a\r\n\r\n" + post("/after", b"a"))
    first, _, rest = data.partition(b"\r\n\r\n")
    assert b"content-length" not in first.lower()
    assert statuses(rest) == [200]
    assert b"/after" in rest


async def test_a_target_with_a_host_in_it_is_served(server: Server) -> None:
    """As clients send it that take this server for a proxy; the host in the target counts."""
    head = b"POST http://other:80/a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    data = await server.ask(head, end=False)
    assert statuses(data) == [200]
    said = json.loads(data.partition(b"\r\n\r\n")[2])
    assert said == {"path": "/a", "query": "b=c", "body": "ok", "hosts": ["other:80"]}


async def test_an_empty_line_before_a_request_is_ignored(server: Server) -> None:
    """As some clients send one after a body (RFC 9112, 2.2)."""
    data = await server.ask(b"\r\n" + post("/a", b"b") + b"\r\n", post("/c"))
    assert statuses(data) == [200, 200]


async def test_an_empty_line_after_a_request_is_no_end(server: Server) -> None:
    """The next request may come later."""
    client = await server.connect()
    for path in ("/a", "/b"):
        client.writer.write(post(path) + b"\r\n")
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("before", [b"\r", b"\r\n\r"])
async def test_an_empty_line_that_comes_in_two_parts_is_ignored(server: Server, before: bytes) -> None:
    """The rest may come with the next request, or before it."""
    client = await server.connect()
    client.writer.write(post("/a") + before)
    assert (await client.answer())[0] == 200
    client.writer.write(b"\n" + post("/b") + before)
    assert (await client.answer())[0] == 200
    client.writer.write(b"\n")
    client.writer.write(post("/c"))
    assert (await client.answer())[0] == 200


async def test_many_empty_lines_before_a_request_are_skipped_at_once() -> None:
    """They take milliseconds of CPU time; one after the other took seconds, in which nobody else was served."""
    async with serving(fast=True) as server:
        started = time.thread_time()
        assert statuses(await server.ask(b"\r\n" * 524_288 + post("/"))) == [200]
        assert time.thread_time() - started < 0.3


async def test_what_comes_long_before_its_turn_waits_at_the_client() -> None:
    """Otherwise a client could fill the memory behind a request that takes its time."""
    async with serving(fast=True) as server:
        client = await server.connect()
        client.writer.write(post("/wait") + b"x" * 20_000_000)
        await eventually(lambda: server.echo.seen)
        (connection,) = vars(server.listener)["_connections"].open
        await eventually(lambda: not vars(connection)["_transport"].is_reading())
        assert len(connection.buffer) < 1_000_000
        server.echo.go_on.set()
        assert statuses(await client.rest()) == [200, 431]


async def test_each_piece_of_a_body_waits_for_its_turn(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like each request: otherwise many bodies that arrive at once would hold up the event loop."""
    taken = 0
    take = turns.take

    async def counted(count: int = 1) -> None:
        nonlocal taken
        taken += count
        await take(count)

    async with serving(fast=fast) as server:
        client = await server.connect()
        client.writer.write(post("/first"))
        await client.answer()
        monkeypatch.setattr(turns, "take", counted)
        client.writer.write(post("/a", b"xyz")[:-3])
        for number in (1, 2, 3):
            async with asyncio.timeout(IN_VAIN_S):
                while taken < number:
                    await asyncio.sleep(0)
            client.writer.write(b"x")
        assert (await client.answer())[0] == 200
        assert taken == 4


@pytest.mark.parametrize("stray", [b"x", b"\r\n", post("/hidden")], ids=["a byte", "a line", "a request"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_what_comes_after_the_last_request_changes_nothing(server: Server, version: bytes, stray: bytes) -> None:
    """The client gets the whole answer to its request, and no other."""
    head = b"POST /wait HTTP/%b\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok" % version
    client = await server.connect()
    client.writer.write(head + stray)
    await eventually(lambda: server.echo.seen)
    client.writer.write(stray)
    await client.writer.drain()
    server.echo.go_on.set()
    data = await client.rest()
    assert statuses(data) == [200]
    assert json.loads(data.partition(b"\r\n\r\n")[2])["body"] == "ok"
    assert server.echo.seen == ["/wait"]


async def test_an_upgrade_to_http2_is_declined_and_leaves_nothing_behind(server: Server) -> None:
    """It is answered as HTTP/1.1."""
    await server.ask(post("/first"))  # the listener has started
    before = len(asyncio.all_tasks())
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n"
    assert statuses(await server.ask(upgrade, b"ZZZZ"))[0] == 200
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_an_answer_without_a_length_comes_in_chunks_until_its_reader_leaves(server: Server) -> None:
    """Like the dashboard's events."""
    client = await server.connect()
    client.writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"transfer-encoding: chunked" in (await client.reader.readuntil(b"\r\n\r\n")).lower()
    assert await client.reader.readexactly(10) == b"5\r\nfirst\r\n"
    client.writer.transport.abort()
    await eventually(lambda: "gone" in server.echo.seen)


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "closed"])
async def test_an_answer_in_pieces_ends_when_its_reader_leaves(server: Server, resets: bool) -> None:
    """However many pieces there would be, and without a line in the log that the client were slow."""
    client = await server.connect()
    client.writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.reader.readuntil(b"more")
    if resets:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.writer.transport.abort()
    else:
        client.writer.close()
    await eventually(lambda: "gone" in server.echo.seen)
    await eventually(lambda: not server.listener.connections)
    assert not server.refused


async def test_an_application_that_waits_hears_of_a_reset(server: Server) -> None:
    """Also if it does not read; a client that only closes its sending half has not left. No refusal is reported."""
    client, half = await server.connect(), await server.connect()
    half.writer.write(post("/lost"))
    half.writer.write_eof()
    client.writer.write(post("/lost"))
    await eventually(lambda: server.echo.seen == ["/lost", "/lost"])
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()
    await eventually(lambda: server.listener.connections == 1)
    assert server.echo.seen == ["/lost", "/lost", "gone"]
    assert not server.refused


@pytest.mark.parametrize("early", [True, False], ids=["half before it is served", "while it waits"])
@pytest.mark.parametrize("behind", [b"", b"\r\n", post("/", b"x" * 100_000)], ids=["nothing", "a line", "a request"])
async def test_an_application_that_waits_hears_that_a_client_has_closed_altogether(
    fast: bool, early: bool, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first that is only the end of what it sends; the kernel asks whether it still waits for an answer."""
    monkeypatch.setattr(listening, "_KEEPALIVE", {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1})
    monkeypatch.setattr("proxy.http.fast.connection.RESET_LOOK_S", 0.1)
    monkeypatch.setattr("proxy.http.hypercorn_fixes.connection.RESET_LOOK_S", 0.1)
    async with serving(fast=fast) as server:
        half = await server.connect()
        half.writer.write(post("/wait"))
        half.writer.write_eof()
        with socket.create_connection(("127.0.0.1", server.port), IN_VAIN_S) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
            client.sendall(post("/lost") + behind)
            if early:
                client.shutdown(socket.SHUT_WR)
            await eventually(lambda: "/lost" in server.echo.seen)
        await eventually(lambda: "gone" in server.echo.seen)
        await eventually(lambda: server.listener.connections == 1)
        server.echo.go_on.set()
        assert (await half.answer())[0] == 200
        assert not server.refused


async def test_a_client_that_resets_takes_nothing_with_it(server: Server) -> None:
    """Its request is finished for nobody, and nothing is left behind that the loop could complain about."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    client = await server.connect()
    client.writer.write(post("/wait") + post("/second"))
    await eventually(lambda: server.echo.seen)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()
    server.echo.go_on.set()
    assert statuses(await server.ask(post("/canary"))) == [200]
    await eventually(lambda: not server.listener.connections)
    assert not complaints


async def test_a_bug_in_an_answer_splits_nothing(server: Server) -> None:
    """A field with a line break is not sent at all; the client gets a problem document."""
    data = await server.ask(post("/bug"))
    assert statuses(data) == [500]
    assert problem(data)["code"] == "internal-error"
    assert b"b: c" not in data


async def test_a_request_without_an_answer_gets_one(server: Server) -> None:
    """Where the application ends without answering; the answer is never empty."""
    data = await server.ask(post("/nothing"))
    assert statuses(data) == [500]
    assert problem(data)["code"] == "internal-error"
    assert server.refused == ["internal-error"]


async def test_half_an_answer_is_not_taken_for_a_whole_one(server: Server) -> None:
    """Where the application ends in the middle of an answer, so does the connection."""
    data = await server.ask(post("/half") + post("/next"))
    assert statuses(data) in ([], [200])
    assert b"/next" not in data


async def test_half_an_answer_ends_in_a_reset(server: Server) -> None:
    """A mere close would be the regular end of an answer without a length."""
    for request in (post("/half"), b"GET /half HTTP/1.0\r\n\r\n"):
        client = await server.connect()
        client.writer.write(request)
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_tls_is_served_the_same_way(fast: bool) -> None:
    """Plain requests, and the end of the connection."""
    async with serving(fast=fast, tls=True) as running:
        client = await running.connect(tls_context())
        client.writer.write(post("/a", b"b") + post("/b", b"x" * (2 * MAX_BYTES)))
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 413
        assert running.echo.fast == 2 * fast


async def test_a_tls_connection_that_is_reset_before_its_turn_is_no_error(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transport has no socket any more."""
    complaints: list[dict[str, Any]] = []
    lost = asyncio.Event()
    forward = asyncio.StreamReaderProtocol.connection_lost

    def connection_lost(self: asyncio.StreamReaderProtocol, exc: Exception | None) -> None:
        forward(self, exc)
        lost.set()

    monkeypatch.setattr(asyncio.StreamReaderProtocol, "connection_lost", connection_lost)
    monkeypatch.setattr("proxy.http.server.turns.take", lost.wait)
    async with serving(fast=fast, tls=True) as running:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.to_thread(_reset_after_the_handshake, running.port)
        client = await running.connect(tls_context())  # served after the first one
        client.writer.write(post("/canary"))
        assert (await client.answer())[0] == 200
    assert not complaints


def _reset_after_the_handshake(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), IN_VAIN_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        tls_context().wrap_socket(connection).close()


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
async def test_http2_is_not_offered_by_tls(offered: list[str], chosen: str | None, fast: bool) -> None:
    """A client that can speak both speaks HTTP/1.1."""
    context = tls_context()
    context.set_alpn_protocols(offered)
    async with serving(fast=fast, tls=True) as running:
        client = await running.connect(context)
        tls: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == chosen
        client.writer.write(post("/a"))
        assert (await client.answer())[0] == 200
