"""HTTP/1.1 for plain requests: a connection is served in its own task, one request after the other.

Hypercorn creates a task, a queue and a dozen event objects for every request, and h11 parses it in Python; that was
half of the front end's work. Here, the application is awaited where the request was read, and its answer is one write.
If a request is not plain (proxy/http/fast/exchange.py), Hypercorn takes over the connection, beginning with its first
byte.

The application may take as long as it likes, whatever the client does. One timer limits the client's time for the next
head and for a body; it is set at most once in a while, however many requests there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

from hypercorn.utils import parse_socket_addr

from proxy.http import problems
from proxy.http.asgi import ClientGoneError
from proxy.http.connections import RESET_LOOK_S, has_unread, is_reset, reset, socket_of
from proxy.http.fair_turns import turns
from proxy.http.fast.exchange import Exchange, answer_head, parse
from proxy.http.time_limits import LazyTimer, drained, sent
from shared.errors import Code

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from proxy.http.connections import Connections

__all__ = ["FastConnection"]

_CR: Final = ord("\r")
_SPACE: Final = ord(" ")
#: How much is read ahead.
_AHEAD_BYTES: Final = 65_536
#: More than a stream reader holds.
_ALL_BYTES: Final = 1_048_576
#: Excess line ends of the previous body (RFC 9112, 2.2). All at once: a client may send a hundred thousand of them.
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)++")
#: The end of a head whose lines end in LF alone, which h11 accepts.
_BARE_END: Final = re.compile(rb"\n\r?\n")


class FastConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, app: ASGIApp, connections: Connections, writer: asyncio.StreamWriter) -> None:
        """Take over the connection of `writer`, which does not read at the moment. Raises OSError if it is gone."""
        self._app = app
        self._connections = connections
        self._transport: asyncio.Transport = writer.transport  # type: ignore[assignment] # one that reads as well
        self._scope = _scope(writer)
        self._streams = self._transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._timer = LazyTimer(self._on_overdue)
        self._reset_timer = LazyTimer(self._look_for_reset)
        self._stopped = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._held = False
        #: Whether there is no request.
        self._waiting = True
        #: Whether the time for the next head is running; for the first head, it runs from the beginning.
        self._head_begun = True
        self.limits = connections.limits
        #: Received bytes that are not used yet.
        self.buffer = b""
        #: Nothing more will be received.
        self.ended = False
        #: Done when the connection is closed.
        self.lost: asyncio.Future[None] = self._loop.create_future()
        #: The client's time is over.
        self.overdue = False

    @property
    def stopping(self) -> bool:
        """Whether the next answer is the last."""
        return self._stopped or self._connections.stopping

    @property
    def closing(self) -> bool:
        """Whether an incomplete body is no longer waited for."""
        return self._connections.closing

    @property
    def idle_until(self) -> float | None:
        """When it will be closed without a request; None: it has one, or is being closed."""
        is_idle = self._waiting and not self.buffer and not self._stopped
        return self._timer.until if is_idle else None

    @property
    def has_unread(self) -> bool:
        """Whether bytes have arrived that are not read yet."""
        return has_unread(self._transport)

    async def serve(self, reader: asyncio.StreamReader) -> bool:
        """Serve the connection to its end; or return True if Hypercorn has to continue, with all unread bytes."""
        self._connections.open.add(self)
        handed_over = False
        try:
            await self._take_over(reader)
            if await self._serve_all() and not self._transport.is_closing():
                handed_over = True
                self._hand_over(reader)
        except ClientGoneError:
            pass
        finally:
            self._connections.open.discard(self)
            self._timer.close()
            self._reset_timer.close()
            if not handed_over:
                self._transport.abort()  # a no-op if it is closed
        return handed_over

    async def _take_over(self, reader: asyncio.StreamReader) -> None:
        """Receive everything from now on, after what has already arrived."""
        self.time_limit(self._connections.first_head_s)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0):
                self.buffer = await reader.read(_ALL_BYTES)
        self.ended = reader.at_eof()
        if self.ended:
            self._reset_timer.set(RESET_LOOK_S)
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.lost.set_result(None)
        else:
            self._transport.resume_reading()

    async def _serve_all(self) -> bool:
        """Serve requests as long as they are plain and more may come; return whether one came that is not plain."""
        while (end := await self._head_end()) > 0:
            self._waiting = False
            self._timer.clear()
            await turns.take()
            head, self.buffer = self.buffer[: end + 2], self.buffer[end + 4 :]
            if head.count(b"\n") > self.limits.headers + 1:
                detail = f"the request has more than {self.limits.headers} headers"
                await self._refuse(Code.HEADERS_TOO_LARGE, detail, head)
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
            self._waiting, self._head_begun = True, False
            self.time_limit(self.limits.keep_alive_s)
        return end < 0

    async def _head_end(self) -> int:
        """Return where the next head ends; 0 if none will come, -1 if it is not for this parser."""
        most = self.limits.head_bytes
        is_late = False
        while True:
            data = self.buffer
            end = data.find(b"\r\n\r\n", 0, most)
            if end > 0 and data[0] != _CR:
                return end
            if empty := _EMPTY_LINES.match(data):
                self.buffer = data[empty.end() :]
                continue
            if self.overdue and not is_late and self.has_unread:  # it came in time: the event loop was busy
                is_late = True
                self.time_limit(self.limits.head_s)
            stops = self._stopped and not self.has_unread
            if self.lost.done() or stops or (not data and (self.ended or self.overdue)):
                await self._close(unread=False)
                return 0
            if self.overdue:
                await self._refuse(Code.REQUEST_TIMEOUT, "the headers did not come in time", data)
                return 0
            if len(data) >= most:
                await self._refuse(Code.HEADERS_TOO_LARGE, f"the headers are larger than {most} bytes", data)
                return 0
            if data and (self.ended or (data[0] <= _SPACE and data != b"\r") or _BARE_END.search(data)):
                return -1
            if data and not self._head_begun:
                self._head_begun = True
                self.time_limit(self.limits.head_s)
            await self.more()

    def _hand_over(self, reader: asyncio.StreamReader) -> None:
        self._transport.set_protocol(self._streams)
        if self._held:
            self._transport.resume_reading()
        reader.feed_data(self.buffer)
        if self.ended:
            reader.feed_eof()

    # --- time and the end --------------------------------------------------------------------------------------------

    def time_limit(self, seconds: float | None) -> None:
        """Wake the task that waits for the client after this time, with `overdue`; None: there is no limit."""
        self.overdue = False
        if seconds is None:
            self._timer.clear()
        else:
            self._timer.set(seconds)

    def _on_overdue(self) -> None:
        self.overdue = True
        self._wake()

    def stop(self) -> None:
        """Close at once if there is no request, otherwise after the answer; one that has arrived unread gets one."""
        self._stopped = True
        self._wake()

    def cut_off(self) -> None:
        """Wake the task that waits for the rest of a body."""
        self._wake()

    async def _refuse(self, code: Code, detail: str, beginning: bytes) -> None:
        """Answer an unreadable request, and close."""
        problem = problems.unread(code, detail)
        self.refused(problem, beginning)
        await self.write(answer_head(problem.status, problem.fields, close=True) + problem.body)
        await self._close(unread=True)

    def refused(self, problem: problems.Problem, beginning: bytes = b"") -> None:
        """Report a request that the application has not seen or answered to the operators."""
        self._connections.refused(problem, self._scope["client"], beginning)

    async def _close(self, *, unread: bool) -> None:
        """Close so that the client can read its answer.

        Closing with unread bytes is a reset, and a reset makes the client lose its answer. So our half is closed first,
        and what arrives is discarded until the client has closed its half or its time is over. TLS has no halves:
        there, and when the listener stops, this is done only if more is known to come (`unread`).
        """
        if self.lost.done():  # thousands may be lost at once, and what follows takes as long as all else
            return
        transport = self._transport
        halves = transport.can_write_eof()
        if (halves or unread) and not transport.is_closing():
            if halves:
                transport.write_eof()
            await self._throw_away(unread=unread)
        if not halves:
            await sent(transport, self.limits)
        transport.close()
        await drained(transport, lambda: asyncio.shield(self.lost), self.limits)

    async def _throw_away(self, *, unread: bool) -> None:
        """Read and discard everything to the end, as long as something arrives."""
        until = self._loop.time() + self.limits.linger_s
        self.overdue = False
        while not (self.ended or self.overdue or (self.stopping and not unread)) and self._loop.time() < until:
            self.buffer = b""
            self.time_limit(self.limits.head_s)
            await self.more()

    # --- reading and writing -----------------------------------------------------------------------------------------

    async def more(self) -> None:
        """Return when there may be more to read."""
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()
        await self.news()

    async def news(self) -> None:
        """Return when bytes or the end arrived, or the client's time is over."""
        if self._news is None or self._news.done():
            self._news = self._loop.create_future()
        await self._news

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def write(self, data: bytes) -> None:
        """Send. Raises ClientGoneError if the client does not read; then the connection is closed."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._room is not None:
            await drained(self._transport, self._until_room, self.limits)

    async def _until_room(self) -> None:
        while self._room is not None:
            await asyncio.shield(self._room)

    def abort(self) -> None:
        """Close at once, so that a partial answer cannot be mistaken for a complete one."""
        reset(self._transport)

    def data_received(self, data: bytes) -> None:
        """Keep received bytes; stop reading while there are plenty."""
        self.buffer = self.buffer + data if self.buffer else data
        if len(self.buffer) > _AHEAD_BYTES and not self._held:
            self._held = True
            self._transport.pause_reading()
            self._reset_timer.set(RESET_LOOK_S)
        self._wake()

    def eof_received(self) -> bool:
        """Go on: a client that closes the sending half waits for an answer. TLS has no halves."""
        self.ended = True
        self._wake()
        self._reset_timer.set(RESET_LOOK_S)
        return self._transport.can_write_eof()

    def _look_for_reset(self) -> None:
        """Close the connection if its client has left altogether; look again later if not."""
        if is_reset(self._transport):
            self._transport.abort()
        else:
            self._reset_timer.set(RESET_LOOK_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiting task."""
        self.ended = True
        if not self.lost.done():
            self.lost.set_result(None)
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


def _scope(writer: asyncio.StreamWriter) -> dict[str, Any]:
    """Return the common part of all scopes of a connection, as in Hypercorn. Raises OSError if it is gone."""
    socket = socket_of(writer.transport)
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "scheme": "http" if writer.get_extra_info("ssl_object") is None else "https",
        "root_path": "",
        "client": parse_socket_addr(socket.family, socket.getpeername()),
        "server": parse_socket_addr(socket.family, socket.getsockname()),
        "extensions": {},
    }
