"""The job server that a test runs leaves no connection behind when the event loop ends."""

from __future__ import annotations

import asyncio
import gc
import json
import socket

import pytest
from aiohttp.test_utils import TestServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.support.job_server import end
from tests.support.waiting import eventually

_JOB = json.dumps({"account": "a", "fault": "endless-body", "ref": "unread", "callback": "http://127.0.0.1:9/"})
_HEAD = f"POST /start HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(_JOB)}\r\n\r\n"


def test_a_connection_that_nobody_reads_from_ends_with_its_server() -> None:
    """Otherwise it is reported when its memory is freed, which fails an unrelated test."""
    with socket.socket() as peer:
        asyncio.run(_served(peer))
        gc.collect()  # pytest reports what is still open by a warning, which is an error here


@pytest.mark.parametrize("iterations", range(6))
def test_a_connection_that_is_accepted_as_its_server_ends_is_closed(iterations: int) -> None:
    """In whichever iteration of the event loop it is by then."""
    with socket.socket() as peer:
        asyncio.run(_accepted(peer, iterations))
        gc.collect()


async def _accepted(peer: socket.socket, iterations: int) -> None:
    server = TestServer(create_app(Options(duration_s=0)))
    await server.start_server()
    peer.connect((server.host, server.port))
    for _ in range(iterations):
        await asyncio.sleep(0)
    await end(server)
    await server.close()


async def _served(peer: socket.socket) -> None:
    server = TestServer(create_app(Options(duration_s=0)))
    await server.start_server()
    peer.connect((server.host, server.port))
    peer.sendall((_HEAD + _JOB).encode())
    await eventually(lambda: _unsent_bytes(server))
    await end(server)
    await server.close()


def _unsent_bytes(server: TestServer) -> int:
    assert server.runner is not None
    assert server.runner.server is not None
    transports = [handler.transport for handler in server.runner.server.connections]
    return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)
