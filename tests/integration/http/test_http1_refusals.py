"""HTTP/1.1 on a socket: what is refused, on the fast path and by Hypercorn; every refusal says why."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.time_limits import Limits
from tests.support.listening import MAX_BYTES, Server, post, problem, serving, statuses
from tests.support.waiting import eventually
from tests.unit.http.fast.test_head import NOT_PLAIN


@pytest.mark.parametrize("head", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
async def test_what_is_not_plain_hides_no_request(server: Server, head: bytes) -> None:
    """As the first request or a later one: no application sees what follows it unless h11 accepts it."""
    body = b"1\r\nZ\r\n0\r\n\r\n" if b"chunked" in head.lower() else b"ZZZZ"
    for before in (b"", post("/first")):
        server.echo.seen.clear()
        data = await server.ask(before + head + b"\r\n" + body + post("/hidden"))
        seen = server.echo.seen[1:] if before else server.echo.seen
        if "/hidden" in seen:
            assert len(seen) == 2, data
            assert statuses(data).count(200) == 2 + bool(before), data


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("length and chunks", 400, "malformed-request"),
        ("space before the colon", 400, "malformed-request"),
        ("space before a length's colon", 400, "malformed-request"),
        ("two lengths", 400, "malformed-request"),
        ("negative length", 400, "malformed-request"),
        ("bare CR", 400, "malformed-request"),
        ("NUL in a value", 400, "malformed-request"),
        ("no host", 400, "malformed-request"),
        ("a user in the target", 400, "malformed-request"),
        ("TLS", 400, "malformed-request"),
        ("another coding", 501, "not-implemented"),
        ("HTTP/2", 505, "http-version-not-supported"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"0\r\n\r\n"], ids=["no body", "chunk"])
async def test_what_smuggles_is_refused(server: Server, name: str, status: int, code: str, body: bytes) -> None:
    """Each gets one answer that says what is wrong, and the connection closes; the application sees nothing."""
    data = await server.ask(NOT_PLAIN[name] + b"\r\n" + body + post("/hidden"), end=False)
    assert statuses(data) == [status], data
    assert problem(data)["code"] == code
    assert b"connection: close" in data.lower()
    assert not server.echo.seen
    assert server.refused == [code]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /call\x12back/secret HTTP/1.1\r\nHost: a\r\n",
        b"POST /callback/secret H_TP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX : secret\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: \x00secret\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZsecret\r\n",
    ],
    ids=["target", "version", "name", "value", "chunk", "footer"],
)
async def test_what_is_refused_is_not_quoted(server: Server, head: bytes) -> None:
    """It may hold a callback's token, and the detail of a refusal is logged."""
    data = await server.ask(head + b"\r\n", end=False)
    assert problem(data)["code"] == "malformed-request"
    assert b"secret" not in data


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*NOT_PLAIN.values(), b"\r\n\r\n", b"\n"])), max_size=6),
    st.booleans(),
)
def test_garbage_is_refused_and_others_are_served(pieces: list[bytes], fast: bool) -> None:
    """Whatever arrives, at once or after a request, ends in 4xx or nothing; the next client is served."""

    async def offer() -> tuple[bytes, bytes]:
        async with serving(fast=fast) as running:
            garbage = await running.ask(*pieces)
            return garbage, await running.ask(post("/canary"))

    garbage, canary = uvloop.run(offer())
    assert all(status < 500 or status in {501, 505} for status in statuses(garbage)), garbage
    assert statuses(canary) == [200]


async def test_http2_with_prior_knowledge_is_refused(server: Server) -> None:
    """The preface gets one answer in HTTP/1.1, which says which protocol is spoken; then the connection closes."""
    settings = b"\0\0\0\4\0\0\0\0\0"
    for before in (b"", post("/first")):
        data = await server.ask(before + b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n", settings * 1000, end=False)
        assert statuses(data) == [200] * bool(before) + [505]
        assert problem(data)["code"] == "http-version-not-supported"
    assert set(server.echo.seen) == {"/first"}


async def test_a_body_over_the_cap_is_refused_so_that_the_client_can_read_it(server: Server) -> None:
    """With a declared length and nothing sent, and while it is being sent: the whole answer, then the end."""
    for path in ("/", "/unread"):
        data = await server.ask(post(path, b"x" * (4 * MAX_BYTES)))
        assert statuses(data) == [404 if path == "/unread" else 413]
        assert b"connection: close" in data
    head, _, _ = post("/", b"x" * (4 * MAX_BYTES)).partition(b"\r\n\r\n")
    assert statuses(await server.ask(head + b"\r\n\r\n", end=False)) == [413]


@pytest.mark.parametrize("chunks", [1, 9, 40])
async def test_a_body_that_nobody_reads_does_not_block_its_connection(chunks: int, fast: bool) -> None:
    """However many chunks it has: the client is answered, the connection closes, and nothing is left behind."""
    async with serving(fast=fast, limits=Limits(head_s=0.2, keep_alive_s=0.2)) as server:
        await server.ask(post("/first"))  # the listener has started
        before = len(asyncio.all_tasks())
        head = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client = await server.connect()
        data = await client.ask(head, *[b"3\r\nabc\r\n"] * chunks, b"0\r\n\r\n", post("/next"))
        assert statuses(data) in ([404], [404, 200])
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_body_that_nobody_reads_in_time_is_thrown_away(server: Server) -> None:
    """The client is answered while it is still sending: it can send everything, and then read its answer."""
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await server.connect()
    client.writer.write(head)
    await eventually(lambda: server.echo.seen)
    data = await client.ask(*[b"ffff\r\n" + b"x" * 65_535 + b"\r\n"] * 40, b"0\r\n\r\n", end=True)
    assert statuses(data) == [404]
    assert b"connection: close" in data.lower()


async def test_a_body_that_ends_too_early_is_refused(server: Server) -> None:
    """The same goes for a head."""
    data = await server.ask(post("/", b"whole")[:-1])
    assert statuses(data) == [400]
    assert problem(data)["code"] == "malformed-request"
    assert statuses(await server.ask(post("/", b"whole")[:20])) in ([400], [])


async def test_the_answer_to_a_broken_body_is_not_lost_to_a_late_one(server: Server) -> None:
    """The application answers after the refusal; the client, which goes on sending, is not reset for that."""
    client = await server.connect()
    client.writer.write(b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n")
    assert statuses(await client.rest()) == [400]
    for _ in range(2):
        client.writer.write(b"more")
        await server.ask(post("/another"))
    assert server.echo.seen == ["/unread", "/another", "/another"]
    assert not client.writer.transport.is_closing()


async def test_a_body_that_breaks_does_not_disturb_an_answer_under_way(server: Server) -> None:
    """The application has already answered and goes on; an invalid chunk does not change that answer."""
    client = await server.connect()
    client.writer.write(b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.reader.readuntil(b"5\r\nfirst\r\n")
    data = await client.ask(b"nonsense\r\n", end=True)
    assert not statuses(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["bytes", "bytes without end", "fields", "target"],
)
async def test_a_head_has_an_upper_limit(server: Server, data: bytes) -> None:
    """431, and the connection closes."""
    answer = await server.ask(data, end=False)
    assert statuses(answer) == [431]
    assert problem(answer)["code"] == "headers-too-large"


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("what", ["bytes", "fields"])
async def test_the_upper_limits_of_a_head_are_the_same_on_both_paths(server: Server, what: str, over: int) -> None:
    """The largest head is served, and one with a byte or a header more is refused."""
    limits, begin = Limits(), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    if what == "bytes":
        data = begin + b"X: " + b"x" * (limits.head_bytes + over - len(begin) - 7) + b"\r\n\r\n"
    else:
        data = begin + b"X: y\r\n" * (limits.headers + over - 2) + b"\r\n"
    assert statuses(await server.ask(data, end=False)) == [431 if over else 200]


@pytest.mark.parametrize(
    "rest",
    [b"X: " + b"x" * 17_000, b"X: y\r\n" * 101 + b"\r\n", b"X : y\r\n\r\n", b"Transfer-Encoding: gzip\r\n\r\n"],
    ids=["bytes", "fields", "malformed", "another coding"],
)
@pytest.mark.parametrize("before", [b"", post("/first")], ids=["first", "second"])
async def test_whoever_hears_of_a_refusal_hears_whose_request_it_was(
    server: Server, before: bytes, rest: bytes
) -> None:
    """A job may be waiting for it: it may be a callback."""
    await server.ask(before + b"POST /callback/token HTTP/1.1\r\nHost: a\r\n" + rest, end=False)
    assert [line.rstrip() for line in server.lines] == [b"POST /callback/token HTTP/1.1"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "it is TLS, and this address speaks plain HTTP"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 50000 80\r\n", "it is the PROXY protocol; "),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), "it is the PROXY protocol; "),
    ],
    ids=["TLS", "PROXY", "PROXY, version 2"],
)
async def test_what_comes_to_the_wrong_address_is_refused_by_its_name(server: Server, sent: bytes, words: str) -> None:
    """Someone configured the wrong address."""
    assert problem(await server.ask(sent + post("/"), end=False))["detail"].startswith(f"this is not HTTP/1.1: {words}")


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (ssl.create_default_context(), "the client does not know who signed the certificate"),
        (None, "the client speaks plain HTTP"),
    ],
    ids=["untrusted", "plain HTTP"],
)
async def test_a_handshake_that_fails_is_heard_of(fast: bool, context: ssl.SSLContext | None, words: str) -> None:
    """Otherwise no job would learn that its job server rejects the certificate."""
    async with serving(fast=fast, tls=True) as server:
        await asyncio.to_thread(_greet, server.port, context)
        await eventually(lambda: server.refused)
        assert server.refused == ["malformed-request"]
        assert server.details[0].startswith(f"the TLS handshake failed: {words}")


def _greet(port: int, context: ssl.SSLContext | None) -> None:
    """Start a handshake as a client that says why it refuses; event loops close without a word."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as plain:
        if context is None:
            plain.sendall(post("/"))
            plain.recv(1)
        else:
            context.wrap_socket(plain, server_hostname="localhost").close()


async def test_of_a_request_that_was_begun_nobody_hears_but_its_application(server: Server) -> None:
    """The application knows itself whose request it was."""
    await server.ask(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n", end=False)
    assert server.lines == [b""]
