"""Clients that do not behave, over bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.stopwatch import Stopwatch
from tests.support.waiting import eventually

__all__ = ["Raw", "connect", "request"]


def request(path: str, body: bytes = b"", *, length: int | None = None, chunked: bool = False) -> bytes:
    """Return a POST as it goes over the wire; `length` may lie about the body's, `chunked` says that pieces follow."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) if length is None else length}"
    head = f"POST {path} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    return head.encode() + body


@dataclass(frozen=True, slots=True)
class Raw:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    #: This end's.
    port: int
    #: Whose the other end is.
    server_pid: int

    async def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_job(self, **fields: object) -> None:
        """Post a job."""
        await self.send(request("/queueJob", json.dumps(fields).encode()))

    async def until_closed(self, limit_s: float) -> bytes:
        """Read until the other side closes, and return what came; fail if that takes longer than `limit_s`.

        Time in which this process or the server had no processor does not count.
        """
        watch = Stopwatch(self.server_pid)
        reading = asyncio.ensure_future(self.reader.read())
        try:
            await eventually(reading.done, limit_s, watch)
        finally:
            reading.cancel()
        with contextlib.suppress(ConnectionResetError):
            return reading.result()
        return b""

    def reset(self) -> None:
        """Close with a lingering time of zero: the kernel then sends RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Close in good order."""
        self.writer.close()


async def connect(url: str, server_pid: int, *, receive_bytes: int | None = None) -> Raw:
    """Connect to the server at `url`, whose process is `server_pid`.

    `receive_bytes` makes the kernel take no more than about that, unread.
    """
    address = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096 if receive_bytes else 65_536)
    return Raw(reader, writer, sock.getsockname()[1], server_pid)
