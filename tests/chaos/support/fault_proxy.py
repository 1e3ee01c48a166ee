"""A fault proxy between worker and job server: refuses, resets, slows down, swallows or cuts, as each request asks.

A submission asks with its member `wire`: the name of a fault, some with a number after a colon:

    reset:N     the connection is reset once N bytes of the reply have passed (0: as soon as the request is there)
    cut:N       the same, but closed in good order
    drip:S      the reply passes a byte every S seconds
    swallow     the request passes, the reply does not
    black-hole  nothing passes, and the connection stays open
    half        half of the request passes, then both sides are reset

Without it everything passes. To refuse connections, do not start it, or `stop` it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Self

from tests.support.job_server import close_listener

__all__ = ["FaultProxy"]

_PASS_BYTES = 65_536


class FaultProxy:
    """Serves on its own port while the `async with` block lasts."""

    def __init__(self, host: str, port: int) -> None:
        """Forward to the server at this address."""
        self._target = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/start"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Cut all connections and stop listening."""
        await close_listener(self._server)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        fault, _, number = str(json.loads(body).get("wire", "")).partition(":")
        request = head + body
        if fault == "black-hole":
            await asyncio.Event().wait()
        if fault == "reset" and number == "0":
            _reset(writer)
            return
        upstream, up_writer = await asyncio.open_connection(*self._target)
        try:
            up_writer.write(request[: len(request) // 2] if fault == "half" else request)
            await up_writer.drain()
            if fault == "half":
                _reset(up_writer)
                _reset(writer)
            else:
                await _pass(upstream, writer, fault, float(number or 0))
        finally:
            up_writer.close()


async def _pass(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: str, number: float) -> None:
    """Forward the reply as the fault says."""
    passed = 0
    while data := await upstream.read(1 if fault == "drip" else _PASS_BYTES):
        if fault == "swallow":
            continue
        if fault in {"reset", "cut"}:
            data = data[: int(number) - passed]
        writer.write(data)
        await writer.drain()
        passed += len(data)
        if fault == "drip":
            await asyncio.sleep(number)
        if fault in {"reset", "cut"} and passed >= number:
            if fault == "reset":
                _reset(writer)
            return
    if fault == "swallow":
        await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a linger time of zero: the kernel then sends RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
