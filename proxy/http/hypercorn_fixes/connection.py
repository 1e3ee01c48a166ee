"""The time limits and the end of a connection.

- A connection whose peer has left stays open for as long as an idle one may.
- A burst of requests blocks the event loop.
- A request that arrives as the time for it is over is not read.
- The time for the next request is also the time for the rest of its head.
- A client that does not read its answer holds its connection forever; one that reads slowly loses its end.
- What was sent is lost if the connection is closed with unread bytes: the kernel then resets it.
- The end of a connection is not noticed while bytes that came before it wait for the answer to a request.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import hypercorn.asyncio.run as hypercorn_run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from proxy.http.asgi import ClientGoneError
from proxy.http.connections import RESET_LOOK_S, has_unread, is_reset, reset, socket_of
from proxy.http.fair_turns import turns
from proxy.http.hypercorn_fixes.application import Tasks
from proxy.http.hypercorn_fixes.request import HTTP1
from proxy.http.time_limits import LazyTimer, drained, sent

if TYPE_CHECKING:
    from proxy.http.hypercorn_fixes.config import ServerConfig
    from proxy.http.time_limits import Limits

__all__ = ["HypercornConnection", "install"]

#: How much is read from a connection at once.
_READ_BYTES: Final = 16_384


def install(connection: type[HypercornConnection]) -> None:
    """Let Hypercorn create its connections from this class."""
    vars(hypercorn_run)["TCPServer"] = connection


class HypercornConnection(TCPServer):
    """One connection, from the first byte to the last."""

    config: ServerConfig
    _http: HTTP1
    _tasks: Tasks
    #: Done when the connection is closed.
    _lost: asyncio.Future[None]
    _in_head = False
    #: Whether it has read bytes that wait for their turn.
    _has_read = False
    _ended = False
    _closing = False
    #: Until when what arrives after the last answer is discarded.
    _linger_until = 0.0

    @property
    def _limits(self) -> Limits:
        return self.config.connections.limits

    async def run(self) -> None:
        """Serve the connection."""
        connections = self.config.connections
        self._tasks = Tasks(self.loop)
        self._lost = self.loop.create_future()
        try:
            self._http = self._protocol(self._tasks)
        except OSError:  # the peer left before its address was read
            self.writer.transport.abort()
            return
        self._timer = LazyTimer(self._on_overdue)
        self._reset_timer = LazyTimer(self._look_for_reset)
        self._reset_timer.set(RESET_LOOK_S)
        self._timer.set(connections.first_head_s)
        try:
            async with self._tasks:
                connections.open.add(self)
                await self._read_data()
        finally:
            await self._close()
            connections.open.discard(self)
            del self._http, self._tasks  # reference cycles: without the garbage collector, nothing would be freed

    def _protocol(self, tasks: Tasks) -> HTTP1:
        peer = socket_of(self.writer.transport)
        return HTTP1(
            self.app,
            self.config,
            self.context,
            tasks,
            ConnectionState({**self.state, "lost": self._lost}),
            self.writer.get_extra_info("ssl_object") is not None,
            parse_socket_addr(peer.family, peer.getpeername()),
            parse_socket_addr(peer.family, peer.getsockname()),
            self.protocol_send,
        )

    async def _read_data(self) -> None:
        while data := await self._read():
            if not self._closing:
                self._has_read = True
                await turns.take()
                self._has_read = False
                await self._http.handle(RawData(data))
                self._limit_head()
            elif self.loop.time() < self._linger_until:
                self._timer.set(self._limits.head_s)
        self._ended = True
        self._note_loss()
        if not self._closing:
            await self._http.handle(RawData(b""))
        await self._http.handle(Closed())

    def _limit_head(self) -> None:
        """Start the time limit of a head at its first byte."""
        began, self._in_head = self._in_head, self._http.in_head
        if self._in_head and not began:
            self._timer.set(self._limits.head_s)

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(_READ_BYTES)
        except OSError:
            return b""

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note when the connection has a request."""
        match event:
            case RawData():
                await self._write(event.data)
            case Closed():
                with contextlib.suppress(ClientGoneError):
                    await sent(self.writer.transport, self._limits)
                self._half_close()
            case Updated(idle=True):
                self._timer.set(self._limits.keep_alive_s)
            case Updated():
                self._timer.clear()

    async def _write(self, data: bytes) -> None:
        """Send. Raises ClientGoneError if the client does not read."""
        if self._note_loss():  # uvloop reports writing to a closed transport as a bug
            return
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            if self.writer.transport.get_write_buffer_size():
                await drained(self.writer.transport, self.writer.drain, self._limits)

    def _note_loss(self) -> bool:
        """Return whether the connection is closed, and tell whoever waits for that."""
        is_lost = self.writer.transport.is_closing()
        if is_lost and not self._lost.done():
            self._lost.set_result(None)
        return is_lost

    def _look_for_reset(self) -> None:
        """Close the connection if its client has left altogether; look again later if not.

        The end is not read while bytes that arrived before it have to wait for an answer.
        """
        if is_reset(self.writer.transport):
            self.writer.transport.abort()
        if not self.writer.transport.is_closing():
            self._reset_timer.set(RESET_LOOK_S)
        elif self._http.busy:
            self._tasks.spawn(self._leave)
        else:  # the tasks may have ended
            self._note_loss()

    async def _leave(self) -> None:
        await self._http.leave()
        self._note_loss()

    def _half_close(self) -> None:
        """Send nothing more, and discard what arrives until the peer has closed as well, or its time is over."""
        self._closing = True
        transport = self.writer.transport
        halves = transport.can_write_eof()  # TLS has none
        if self._http.failed:
            reset(transport)
        elif self._ended or not (self._http.unread or (halves and not self.config.connections.stopping)):
            transport.close()
        elif halves and not transport.is_closing():
            transport.write_eof()
        self._timer.set(self._limits.head_s)
        self._linger_until = self.loop.time() + self._limits.linger_s

    def _on_overdue(self) -> None:
        """Expire one iteration later, when bytes that the reader has already are handled."""
        self.loop.call_soon(self._expire)

    def _expire(self) -> None:
        transport = self.writer.transport
        if self._timer.until is not None:
            pass  # more has come meanwhile
        elif self._closing or transport.is_closing():
            transport.abort()
        elif self._http.in_head and not self.has_unread:
            self._tasks.spawn(self._http.refuse_late)
        elif not self._http.busy:
            if not self.has_unread:
                transport.close()
            self._timer.set(self._limits.head_s)

    @property
    def idle_until(self) -> float | None:
        """When it will be closed without a request; None: it has one, or is being closed."""
        http = self._http
        return None if http.busy or http.in_head or http.last or self._closing else self._timer.until

    @property
    def has_unread(self) -> bool:
        """Whether bytes have arrived that are not read yet, or wait for their turn."""
        return self._has_read or has_unread(self.writer.transport)

    def stop(self) -> None:
        """Close at once if there is no request, otherwise after the answer; one that has arrived unread gets one."""
        self._http.last = True
        self.loop.call_soon(self._close_if_idle)  # as in `_on_overdue`

    def _close_if_idle(self) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        lingers = self._closing and self._http.unread
        if not (self._http.busy or self.has_unread or lingers):
            transport.close()

    def cut_off(self) -> None:
        """Wake the application if it waits for the rest of a body."""
        if self._tasks.messages is not None:
            self._tasks.messages.cut_off()

    async def _close(self) -> None:
        self._closing = True
        self._timer.close()
        self._reset_timer.close()
        with contextlib.suppress(OSError):
            self.writer.close()
            closed = asyncio.ensure_future(self.writer.wait_closed())
            await drained(self.writer.transport, lambda: asyncio.shield(closed), self._limits)
        error = self.reader.exception()
        if error is not None:  # of a reset; the reader keeps it, and its traceback leads back to the reader and to us
            error.__traceback__ = None
