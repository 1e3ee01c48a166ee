"""The aftermath of a lost connection to the database."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import psycopg
import pytest

from proxy.store.postgresql.wire import Wire


class LostConnection:
    """A connection whose socket is closed when the server hangs up, as by libpq."""

    nonblocking = 0

    def __init__(self, line: socket.socket) -> None:
        self.pgconn = self
        self._line = line
        self.socket = line.fileno()
        #: What gets the number of that socket, such as a client's connection.
        self.next: list[socket.socket] = []
        self.reading: asyncio.Task[bytes] | None = None

    def consume_input(self) -> None:
        """Read, and close at the end."""
        if self._line.recv(1) == b"":
            self._line.close()
            self.next += socket.socketpair()
            assert self.next[0].fileno() == self.socket
            self.reading = asyncio.create_task(_read_from(self.next[0]))
            raise psycopg.OperationalError

    def notifies(self) -> None:
        """There are none."""

    def finish(self) -> None:
        """It is closed already."""


async def _read_from(client: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_a_connection_that_gets_the_number_of_a_lost_one_is_read() -> None:
    """It may be a client's, whose request would never be read."""
    ours, server = socket.socketpair()
    ours.setblocking(False)
    lost = LostConnection(ours)
    wire = Wire(cast("psycopg.AsyncConnection[Any]", cast("Any", lost)))

    server.close()
    await asyncio.wait_for(wire.gone.wait(), 10)
    lost.next[1].sendall(b"GET / HTTP/1.1\r\n")

    assert lost.reading is not None
    async with asyncio.timeout(10):
        assert await lost.reading == b"GET / HTTP/1.1\r\n"
    assert not wire.is_open
    with pytest.raises(psycopg.OperationalError):
        await wire.run([("SELECT 1", ())])
    lost.next[1].close()
