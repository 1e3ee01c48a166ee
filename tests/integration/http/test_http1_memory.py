"""HTTP/1.1 on a socket: the objects of a connection are freed when it ends, without the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import Iterator
from typing import Any, Final

import pytest

from proxy.http.fast.connection import FastConnection
from proxy.http.fast.exchange import Exchange
from proxy.http.hypercorn_fixes.application import Stream
from proxy.http.hypercorn_fixes.connection import HypercornConnection
from proxy.http.hypercorn_fixes.messages import Messages
from proxy.http.hypercorn_fixes.request import HTTP1
from tests.support.listening import MAX_BYTES, Server, post
from tests.support.waiting import eventually

_CHUNKED: Final = b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
_OURS: Final = (FastConnection, Exchange, HypercornConnection, HTTP1, Stream, Messages, asyncio.StreamReader)

#: What a client may send before it closes the connection.
_ENDS: Final = {
    "nothing": b"",
    "a plain request": post("/a"),
    "chunks": _CHUNKED % b"a",
    "a body that is not read": _CHUNKED % b"unread",
    "a body that is too large": post("/a", b"x" * (2 * MAX_BYTES)),
    "half a body": post("/a", b"x")[:-1],
    "half a head": b"GET /",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "garbage": b"x\0\r\n\r\n",
    "events": b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Switch the garbage collector off, so that no reference cycle is freed, and have it forget earlier tests."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def ours() -> list[weakref.ref[Any]]:
    """All living objects of connections and requests, except those of earlier tests, which a failure may keep."""
    return [weakref.ref(found) for found in gc.get_objects() if isinstance(found, _OURS)]


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("data", _ENDS.values(), ids=_ENDS.keys())
async def test_a_connection_that_has_ended_is_freed_at_once(server: Server, data: bytes) -> None:
    """However it ended: memory must not depend on when the garbage collector runs, which may be never."""
    await server.ask(data)
    server.clients.clear()
    await eventually(lambda: not any(found() for found in ours()))


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("data", _ENDS.values(), ids=_ENDS.keys())
async def test_a_connection_that_was_reset_is_freed_at_once(server: Server, data: bytes, *, answered: bool) -> None:
    """The error keeps nothing alive, whether it is met by reading, by writing or by closing."""
    client = await server.connect()
    client.writer.write(data)
    if answered:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
    linger = struct.pack("ii", 1, 0)  # close(2) resets the connection
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.writer.transport.abort()
    del client
    server.clients.clear()
    await eventually(lambda: not any(found() for found in ours()))
