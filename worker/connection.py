"""A connection to a job server, and the requests on it, one after the other; third-party exceptions are converted here.

Replies are read by aiohttp's parser, without aiohttp's session. A session supports many hosts, redirects, cookies and
proxies: none of that is wanted here, and a fresh worker pays for all the code that it runs, because it writes to the
memory that contains the code (docs/decisions/0011).

The other side may be hostile or broken: compressed replies are not inflated, and replies have a size limit. The caller
limits the time.

What an error says about a submission depends on its time. Before there is a connection, nothing was submitted
(`refused`). After that, the job server may have received the request, until a reply says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import aiohappyeyeballs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpResponseParser

from shared.errors import BadReplyError, JobServerError, UnavailableError
from shared.job_server.tls import tls_trouble

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp.http_parser import RawResponseMessage
    from aiohttp.streams import StreamReader
    from multidict import CIMultiDictProxy

__all__ = ["Address", "Connection"]

#: If a name has several addresses: how long one may take before the next is tried in parallel (RFC 8305, 5).
_NEXT_ADDRESS_S: Final = 0.25
#: The limit of a reply's status line, and of each header. Some job servers put a token or a policy into one.
_HEADER_BYTES: Final = 65_536
#: The number of an OSError in a message.
_NUMBER: Final = re.compile(r"\[Errno (\d{1,4})\]")
_SWITCHING: Final = 101
_OK: Final = 200

_Found = Sequence[tuple[int, int, int, str, Any]]


class Address:
    """The target of connections."""

    def __init__(self, host: str, port: int, *, trust: Callable[[], SSLContext] | None, cap_bytes: int) -> None:
        """`host` is a name or an IP address; a reply's body may have `cap_bytes`.

        `trust` returns the TLS context, and is called for each connection; None: no TLS.
        """
        self._host = host
        self._port = port
        self._trust = trust
        self._cap_bytes = cap_bytes
        self._found = _without_look_up(host, port)

    async def connect(self) -> Connection:
        """Return a connection on which nothing was sent yet.

        Raises:
            UnavailableError: there is none.
        """
        loop = asyncio.get_running_loop()
        tls = self._trust() if self._trust is not None else None
        found = self._found or await self._look_up()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._cap_bytes),
                **await _place(found, loop),
                ssl=tls,
                server_hostname=self._host.rstrip(".") if tls else None,
            )
        except (OSError, RuntimeError) as exc:  # uvloop raises RuntimeError as well
            if _is_of_tls(exc) or (tls is not None and isinstance(exc, ConnectionError) and not exc.errno):
                detail = f"no TLS connection to the job server: {tls_trouble(exc)}"
                raise UnavailableError(detail, refused=True) from exc
            detail = f"no connection to the job server: {_reason(exc)}"
            raise UnavailableError(detail, refused=True, retryable=True) from exc
        return connection

    async def _look_up(self) -> _Found:
        look = functools.partial(
            socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        try:
            # Not with the loop's own method: where no thread can be started, uvloop aborts the process.
            return await asyncio.get_running_loop().run_in_executor(None, look)
        except (OSError, UnicodeError, RuntimeError) as exc:
            detail = "the job server's name could not be resolved"
            if isinstance(exc, RuntimeError):
                detail += ": no more threads can be started"
            raise UnavailableError(detail, refused=True, retryable=True) from exc


class Connection(BaseProtocol):
    """A connection: for each request, first `request`, then `read`."""

    __slots__ = ("_beginning", "_cap_bytes", "_failure", "_has_more", "_message", "_payload", "_reader", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, cap_bytes: int) -> None:
        """Created by `Address.connect`. A body over `cap_bytes` is refused."""
        super().__init__(loop)
        self._cap_bytes = cap_bytes
        self._failure: JobServerError | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Whether bytes arrived after the reply.
        self._has_more = False
        self._begin()

    def _begin(self) -> None:
        self._reader = HttpResponseParser(
            self,
            self._loop,
            self._cap_bytes,
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        self._parser = self._reader
        #: What was received until the head was complete.
        self._beginning = b""
        self._message: RawResponseMessage | None = None
        self._payload: StreamReader | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be made: the last reply is complete, and neither side wants to close."""
        return (
            self.transport is not None
            and not self.transport.is_closing()
            and self._failure is None
            and not self._has_more
            and self._message is not None
            and not self._message.should_close
            and self._is_whole()
        )

    async def request(self, data: bytes) -> tuple[int, CIMultiDictProxy[str]]:
        """Send a complete request; return the reply's status and headers once they have arrived.

        Raises:
            JobServerError: no reply came, or it is not HTTP.
        """
        if self._message is not None:
            self._begin()
        if self.transport is not None:
            self.transport.write(data)
        while self._message is None:
            await self._news()
        return self._message.code, self._message.headers

    async def read(self) -> bytes:
        """Return the reply's body.

        Raises:
            BadReplyError: it is incomplete or too large.
        """
        while self._failure is not None or self._payload is None or not self._payload.is_eof():
            await self._news()
        return self._payload.read_nowait()

    async def beginning(self, size_bytes: int, within_s: float) -> bytes:
        """Return the beginning of the reply's body: as much as arrives in time, whatever is wrong after it."""
        with contextlib.suppress(TimeoutError, JobServerError):
            async with asyncio.timeout(within_s):
                while self._payload is None or not (self._is_whole() or self._payload.total_bytes >= size_bytes):
                    await self._news()
        payload = self._payload
        return b"" if payload is None or payload.exception() is not None else payload.read_nowait(size_bytes)

    def close(self) -> None:
        """Close it, whatever is still in progress."""
        if self.transport is not None:
            self.transport.abort()

    async def _news(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        await self._waiter

    # --- what the event loop says --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Event loops set TCP_NODELAY themselves, which is all that the overridden method does."""
        self.transport = cast("asyncio.Transport", transport)

    def pause_reading(self) -> None:
        """No-op: the limit bounds what is buffered."""

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - as in aiohttp
        """No-op: it was not paused."""

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._is_whole():
            self._has_more = True
        elif self._failure is None:
            if self._message is None and len(self._beginning) < _HEADER_BYTES:  # informational replies may have no end
                self._beginning += data
            try:
                self._take(data)
            except Exception as exc:  # noqa: BLE001 - any error of the parser
                if not self._is_whole() and (self._message is not None or not self._is_whole_before_rest()):
                    self._fail(BadReplyError("the job server's reply is not valid HTTP"), exc)
                self._has_more = True
            self._check_body()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Accept what has arrived as the complete reply, if possible."""
        self.transport = None
        if self._is_whole():
            return
        if self._message is None:
            detail = f"the connection to the job server broke: {_reason(exc)}"
            if exc is None:
                detail = "the job server closed the connection before its reply"
            self._fail(UnavailableError(detail, lost_reply=True), exc)
        elif exc is None:
            self._end()
        else:
            self._fail(_malformed(lost_reply=True), exc)
        self._wake()

    def _take(self, data: bytes) -> None:
        messages, _, _ = self._reader.feed_data(data)
        for message, payload in messages:
            # Informational replies only announce the final one (RFC 9110, 15.2); what comes after the final one is
            # ignored.
            if self._message is None and (message.code >= _OK or message.code == _SWITCHING):
                self._message, self._payload = message, payload
            elif self._message is not None:
                self._has_more = True

    def _is_whole_before_rest(self) -> bool:
        """Return whether a reply of which the parser has seen the head together with what follows the reply is whole.

        Many servers send more than the length that they announce. The parser reports that as an error, and then does
        not return the reply: so it gets the head alone, and then the rest.
        """
        rest = self._beginning
        self._begin()
        with contextlib.suppress(Exception):
            while rest and self._message is None:  # there may be informational replies
                head, end, rest = rest.partition(b"\r\n\r\n")
                self._take(head + end)
            self._take(rest)
        return self._is_whole()

    def _check_body(self) -> None:
        if self._payload is None:
            return
        if self._payload.exception() is not None:
            self._fail(_malformed(), self._payload.exception())
        elif self._payload.total_bytes > self._cap_bytes:
            self._fail(BadReplyError(f"the job server's reply is larger than {self._cap_bytes} bytes"))

    def _is_whole(self) -> bool:
        return self._payload is not None and self._payload.is_eof()

    def _end(self) -> None:
        """End the body: a reply without a length lasts until the connection ends."""
        try:
            self._reader.feed_eof()
        except Exception as exc:  # noqa: BLE001 - as above
            self._fail(_malformed(lost_reply=True), exc)

    def _fail(self, failure: JobServerError, cause: BaseException | None = None) -> None:
        if self._failure is None:
            failure.__cause__ = cause
            self._failure = failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _place(found: _Found, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return what `create_connection` connects to: one address, or a socket of the first of several that answers."""
    host, port, *rest = found[0][4]
    if len(found) == 1 and not any(rest):  # only a socket can express the interface of a link-local address
        return {"host": host, "port": port}
    connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_S, loop=loop)
    return {"sock": connected}


def _without_look_up(host: str, port: int) -> _Found | None:
    """Return the address if `host` is one; None if it is a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None


def _malformed(*, lost_reply: bool = False) -> BadReplyError:
    return BadReplyError("the job server's reply was cut off or is malformed", lost_reply=lost_reply)


def _is_of_tls(exc: BaseException) -> bool:
    return type(exc).__module__ == "ssl"  # the module may be unavailable


def _reason(exc: BaseException | None) -> str:
    """Return an OSError's reason without addresses or names."""
    if exc is not None and _is_of_tls(exc):  # its numbers are not the system's
        return tls_trouble(exc)
    number = getattr(exc, "errno", None)
    # Of several addresses, each for another reason, only the message has the numbers.
    numbers = [number] if isinstance(number, int) else [int(found) for found in _NUMBER.findall(str(exc))]
    return ", ".join(dict.fromkeys(os.strerror(one).lower() for one in numbers if one > 0)) or "unknown reason"
