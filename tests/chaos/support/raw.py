"""Misbehaving clients, over bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tests.support.stopwatch import Stopwatch

__all__ = ["Raw", "connect", "request"]

#: How often the time is checked while nothing comes; hundreds of connections may be waited for at once.
_LOOK_S: Final = 1.0


def request(path: str, body: bytes = b"", *, length: int | None = None, chunked: bool = False) -> bytes:
    """Return a POST as sent over the wire; `length` may be false, `chunked` says that chunks follow."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) if length is None else length}"
    head = f"POST {path} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    return head.encode() + body


@dataclass(frozen=True, slots=True)
class Raw:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    #: The port of this end.
    port: int
    #: The process at the other end.
    server_pid: int

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_job(self, **fields: object) -> None:
        """Post a job."""
        await self.send(request("/queueJob", json.dumps(fields).encode()))

    async def until_closed(self, limit_s: float) -> bytes:
        """Read until the other side closes, and return everything read; fail if that takes longer than `limit_s`.

        Time in which this process or the server waited for CPU time does not count.
        """
        watch = Stopwatch(self.server_pid)
        reading = asyncio.ensure_future(self.reader.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_LOOK_S)
                assert not watch.is_over(limit_s), f"not closed within {limit_s:g} s"
        finally:
            reading.cancel()
        with contextlib.suppress(ConnectionResetError):
            return reading.result()
        return b""

    def reset(self) -> None:
        """Close with a linger time of zero: the kernel then sends RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Close normally."""
        self.writer.close()


async def connect(url: str, server_pid: int, *, receive_bytes: int | None = None) -> Raw:
    """Connect to the server at `url`, whose process id is `server_pid`.

    `receive_bytes` limits how much the kernel buffers unread, approximately.
    """
    address = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096 if receive_bytes else 65_536)
    return Raw(reader, writer, sock.getsockname()[1], server_pid)
