"""A line to a server, such as the database or the proxy, which a test can stall, slow down, cut and mend."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

from tests.support.job_server import close_listener

__all__ = ["Line"]

_PASS_BYTES = 65_536
#: No more than about twice this is on its way, so that a sender notices how slow the line is.
_BUFFER_BYTES = 65_536


class Line:
    """Forwards connections to a port of this machine within the `async with` block."""

    def __init__(self, port: int) -> None:
        """`port`: the port of the server at the other end."""
        self._target = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        #: How long each byte takes.
        self._byte_s = 0.0
        #: How many connections came so far.
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # connections inherit it
        self._server = await asyncio.start_server(self._accept, sock=listener)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_listener(self._server)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Silently let nothing through any more; what is sent meanwhile arrives when the line is mended."""
        self._flows.clear()

    def slow_down(self, bytes_per_s: float) -> None:
        """Let only so much through, in each direction of each connection."""
        self._byte_s = 1 / bytes_per_s

    def cut(self) -> None:
        """Reset every connection, and each new one at once."""
        self._is_cut = True
        for writer in list(self._writers):
            _reset(writer)

    def mend(self) -> None:
        """Let everything through again."""
        self._is_cut = False
        self._byte_s = 0.0
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._serve(reader, writer)
        self._writers.discard(writer)
        _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            return
        await self._flows.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(far_writer)
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._writers.discard(far_writer)
            far_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PASS_BYTES):
            await self._flows.wait()
            await asyncio.sleep(len(data) * self._byte_s)
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a lingering time of zero: the kernel then sends RST instead of FIN."""
    with contextlib.suppress(OSError, AttributeError):
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
