"""An HTTP/2 client that resets its streams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions

__all__ = ["HTTP2"]


class HTTP2:
    """One connection with prior knowledge, for as long as the `async with` block lasts; made anew where it breaks."""

    def __init__(self, url: str) -> None:
        """Connect to the server at `url`, later."""
        self._address = urlsplit(url)
        self._reading: asyncio.Task[None] | None = None
        self.connections = 0

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def post_and_reset(self, path: str, body: bytes) -> None:
        """Send a whole request on a stream of its own, and reset the stream."""
        try:
            self._begin(path, body)
        except (h2.exceptions.H2Error, ConnectionError):
            await self._close()
            await self._connect()
            self._begin(path, body)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def _begin(self, path: str, body: bytes) -> None:
        if self._reading is None or self._reading.done():
            raise ConnectionError
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":path", path),
            (":scheme", "http"),
            (":authority", "proxy"),
            ("content-type", "application/json"),
        ]
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, body, end_stream=True)
        self._h2.reset_stream(stream)
        self._writer.write(self._h2.data_to_send())

    async def _connect(self) -> None:
        self.connections += 1
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._writer.write(self._h2.data_to_send())
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(OSError, h2.exceptions.H2Error):
            while data := await self._reader.read(65_536):
                for event in self._h2.receive_data(data):
                    if isinstance(event, h2.events.ConnectionTerminated):
                        return
                self._writer.write(self._h2.data_to_send())

    async def _close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
