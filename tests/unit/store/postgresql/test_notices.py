"""What one instance hears of the others, and what it leaves behind when the database is gone."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import psycopg

from proxy.store.postgresql.notices import Listener
from proxy.store.postgresql.session import Session
from tests.support.waiting import eventually


class LostConnection:
    """A connection that has its socket closed when the server hangs up, as libpq does it."""

    def __init__(self, line: socket.socket) -> None:
        self.pgconn = self
        self._line = line
        #: What gets the number of that socket: a client's connection, say.
        self.next: list[socket.socket] = []
        self.reading: asyncio.Task[bytes] | None = None

    def fileno(self) -> int:
        """The socket's number."""
        return self._line.fileno()

    async def execute(self, statement: bytes) -> None:
        """Do nothing."""

    def consume_input(self) -> None:
        """Read, and close at the end."""
        try:
            if self._line.recv(1) == b"":
                fd = self._line.fileno()
                self._line.close()
                self.next += socket.socketpair()
                assert self.next[0].fileno() == fd
                self.reading = asyncio.create_task(_read_from(self.next[0]))
                raise psycopg.OperationalError
        except BlockingIOError:
            pass

    def notifies(self) -> None:
        """There are none."""


class LosingSession:
    """A session whose connections are lost."""

    def __init__(self) -> None:
        self.made: list[LostConnection] = []
        self.servers: list[socket.socket] = []

    async def connect(self) -> LostConnection:
        """Make one more."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.made.append(LostConnection(ours))
        self.servers.append(theirs)
        return self.made[-1]

    def close(self) -> None:
        """Leave nothing open."""
        for connection in self.made:
            connection._line.close()  # noqa: SLF001
        for server in self.servers:
            server.close()


async def _read_from(client: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        return await reader.readline()
    finally:
        writer.close()


async def test_a_connection_that_gets_the_number_of_a_lost_one_is_read() -> None:
    """It may be a client's: its request would never be seen. And the listener goes on with a new connection."""
    session = LosingSession()
    listener = Listener(cast("Session", cast("Any", session)), "me", on_notice=lambda _: None, on_gap=lambda: None)
    await eventually(lambda: session.made)
    lost = session.made[0]

    session.servers[0].close()
    await eventually(lambda: lost.reading is not None)
    lost.next[1].sendall(b"GET / HTTP/1.1\r\n")

    assert lost.reading is not None
    async with asyncio.timeout(10):
        assert await lost.reading == b"GET / HTTP/1.1\r\n"
    await eventually(lambda: len(session.made) == 2)
    await listener.close()
    lost.next[1].close()
