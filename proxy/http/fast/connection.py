"""HTTP/1.1 for plain requests: a connection served in a task of its own, one request after the other.

Hypercorn makes a task, a queue and a dozen event objects of every request, and h11 reads it in Python; that was half of
what the front end did. Here the application is awaited where the request was read, and its answer is one write. What is
not plain (proxy/http/fast/head.py) is left to Hypercorn, from its first byte on, and the connection with it.

The application has as long as it likes, whatever the client does. The client has `IDLE_S` from its last answer on for
the next head, and `SEND_S` to take what it is sent. A connection has one timer for this, which is set anew at most once
in `IDLE_S`, however many requests there are.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from proxy.http.fast.exchange import Exchange
from proxy.http.fast.head import answer_head, parse

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from proxy.http.connections import Connections
    from proxy.http.fair_turns import Turns

__all__ = ["HTTP1", "IDLE_S"]

#: A connection without a request is closed after so long; also one whose headers do not come.
IDLE_S: Final = 5.0
#: For an answer that the client does not read.
SEND_S: Final = 10.0
#: A timer that is late by so much was not heard in time, and neither was the client.
_LATE_S: Final = 0.5
_HEAD_BYTES: Final = 16_384
_HEAD_LINES: Final = 100
#: Read ahead of whoever is to use it.
_AHEAD_BYTES: Final = 65_536
#: More than a stream reader holds.
_ALL_BYTES: Final = 1_048_576
#: The end of a head by lines that end in LF alone, which h11 understands.
_BARE_END: Final = re.compile(rb"\n\r?\n")
_HEADERS_TOO_LARGE: Final = 431


class HTTP1(asyncio.Protocol):
    """One connection."""

    def __init__(
        self, app: ASGIApp, connections: Connections, turns: Turns, transport: asyncio.Transport, scope: dict[str, Any]
    ) -> None:
        """`scope` is what the requests of the connection have in common."""
        self._app = app
        self._connections = connections
        self._turns = turns
        self._transport = transport
        self._scope = scope
        self._streams = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        #: When the client's time is over; None while it is the application's turn.
        self._until: float | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._held = False
        #: What came and was not used yet.
        self.buffer = b""
        #: Nothing more will come.
        self.ended = False
        #: Nobody is there any more.
        self.gone = False

    @property
    def stopping(self) -> bool:
        """Whether the listener closes its connections."""
        return self._connections.stopping

    async def serve(self, reader: asyncio.StreamReader) -> bool:
        """Serve the connection to its end; or return True where it is Hypercorn's to go on, with all that came."""
        self._connections.open.add(self)
        handed_over = False
        try:
            self._wait_until(IDLE_S)
            if self.stopping:  # came just before the end
                self._transport.close()
            self.buffer = await reader.read(_ALL_BYTES)  # what comes later, comes here
            self.ended = reader.at_eof()
            if not self._transport.is_closing():
                self._transport.set_protocol(self)
                if await self._serve_all() and not self._transport.is_closing():
                    handed_over = True
                    self._hand_over(reader)
        finally:
            self._connections.open.discard(self)
            if self._timer is not None:
                self._timer.cancel()
            if not handed_over:
                self._transport.abort()  # which does nothing to one that is closed
        return handed_over

    async def _serve_all(self) -> bool:
        """Serve requests as long as they are plain and more may come; return whether one came that is not."""
        while (end := await self._head_end()) > 0:
            self._until = None
            await self._turns.take()
            head, self.buffer = self.buffer[: end + 2], self.buffer[end + 4 :]
            if head.count(b"\n") > _HEAD_LINES + 1:
                await self.refuse(_HEADERS_TOO_LARGE)
                return False
            request = parse(head)
            if request is None:
                self.buffer = b"%b\r\n%b" % (head, self.buffer)
                return True
            exchange = Exchange(self, request)
            await exchange.run(self._app, self._scope)
            if not exchange.keep_alive:
                await self._close(unread=exchange.unread)
                return False
            self._wait_until(IDLE_S)
        return end < 0

    async def _head_end(self) -> int:
        """Return where the next head ends; 0 where none will come, -1 where what came is not for this reader."""
        while True:
            data = self.buffer
            end = data.find(b"\r\n\r\n", 0, _HEAD_BYTES)
            if end > 0:
                return end
            if self.gone or self.stopping or (self.ended and not data):
                await self._close(unread=False)
                return 0
            if len(data) >= _HEAD_BYTES:
                await self.refuse(_HEADERS_TOO_LARGE)
                return 0
            if data and (self.ended or data[0] <= ord(" ") or _BARE_END.search(data)):
                return -1
            await self.more()

    def _hand_over(self, reader: asyncio.StreamReader) -> None:
        self._transport.set_protocol(self._streams)
        if self._held:
            self._transport.resume_reading()
        reader.feed_data(self.buffer)
        if self.ended:
            reader.feed_eof()

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Close at once where there is no request."""
        if self._until is not None and not self.buffer:
            self._transport.close()
        self._wake()

    async def refuse(self, status: int) -> None:
        """Answer what cannot be read, and close."""
        await self.write(answer_head(status, [(b"content-length", b"0")], close=True))
        await self._close(unread=True)

    async def _close(self, *, unread: bool) -> None:
        """Close so that the client can read its answer.

        To close while something comes in that was not read is a reset, and a reset takes the answer from the client,
        too. So where something may come, our half is closed first, and what comes within IDLE_S is thrown away.
        """
        self._wait_until(IDLE_S)
        if unread and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()
        while unread and not (self.ended or self.stopping):
            self.buffer = b""
            await self.more()
        self._transport.close()
        self._wait_until(SEND_S)
        while not self.gone:  # what was written goes out first
            await self.news()

    def _wait_until(self, seconds: float) -> None:
        """Give the client so many seconds from now."""
        self._until = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._until is None:
            return
        left_s = self._until - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._on_timer)
        elif left_s < -_LATE_S:  # this process was stopped, or busy: what came meanwhile is read first
            self._wait_until(_LATE_S)
        elif self._transport.is_closing():
            self._transport.abort()
        else:
            self._transport.close()
            self._wait_until(SEND_S)

    # --- reading and writing -----------------------------------------------------------------------------------------

    async def more(self) -> None:
        """Return when there may be more to read."""
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()
        await self.news()

    async def turn(self) -> None:
        """Return when it is this connection's turn to do something."""
        await self._turns.take()

    async def news(self) -> None:
        """Return when something came, or ended."""
        if self._news is None or self._news.done():
            self._news = self._loop.create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def write(self, data: bytes) -> None:
        """Send. Raises TimeoutError, and nobody is there any more, where the client does not read."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._room is not None:
            try:
                async with asyncio.timeout(SEND_S):
                    await asyncio.shield(self._room)
            except TimeoutError:
                self._transport.abort()
                raise

    def abort(self) -> None:
        """Close at once, so that what was sent cannot be taken for a whole answer."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Keep what came; read no further while there is plenty."""
        self.buffer = self.buffer + data if self.buffer else data
        if len(self.buffer) > _AHEAD_BYTES and not self._held:
            self._held = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Go on: who closes the sending half waits for an answer. TLS has no halves."""
        self.ended = True
        self._wake()
        return self._transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.ended = self.gone = True
        self._wake()
        self.resume_writing()
        self._streams.connection_lost(exc)

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        if self._room is not None:
            self._room.set_result(None)
        self._room = None
