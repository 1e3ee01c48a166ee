"""One plain request and its answer: their heads as sent, and the application's view of them (ASGI 3).

Plain is what nearly every client and job server sends: origin form, one `Host`, at most one `Content-Length`, lines
that end in CRLF, nothing that needs more than an answer. All other HTTP/1.1, valid or not, is left to Hypercorn, byte
for byte. So nothing is accepted that h11 would refuse or understand differently, and this parser offers no new way to
smuggle requests; tests/unit/http/fast/test_head.py compares the two.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from proxy import log
from proxy.http import problems
from proxy.http.fair_turns import turns
from proxy.http.time_limits import Pace, body_cut_off
from shared.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message

    from proxy.http.fast.connection import FastConnection

__all__ = ["Exchange", "Request", "answer_head", "parse"]

# RFC 9110, 5.5 and 5.6.2. Quantifiers are possessive: a head that does not match fails in one pass.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_LINE: Final = re.compile(rb"(%b):(%b)\r\n" % (_TOKEN, _VALUE))
_HEAD: Final = re.compile(rb"([A-Z]++) (/[\x21-\x7e]*+) HTTP/1\.1\r\n((?:%b:%b\r\n)++)" % (_TOKEN, _VALUE))
#: Hypercorn handles chunked bodies, `Expect`, and other protocols.
_OTHERS: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
#: Longer lengths are for Hypercorn to refuse.
_LENGTH_DIGITS: Final = 18
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_GONE: Final = {"type": "http.disconnect"}


@dataclass(slots=True)
class Request:
    """A plain head, parsed."""

    method: str
    target: bytes
    #: Names in lower case.
    headers: list[tuple[bytes, bytes]]
    #: The length of the body, in bytes.
    length: int = 0
    #: Whether the client may send another request.
    keep_alive: bool = True


def parse(head: bytes) -> Request | None:
    """Return the parsed head, given without the empty line at its end; None if it is not plain."""
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    method, target, lines = match.groups()
    request = Request(str(method, "ascii"), target, [])
    hosts = lengths = 0
    for written, padded in _LINE.findall(lines):
        name, value = written.lower(), padded.strip(b" \t")
        request.headers.append((name, value))
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit() or len(value) > _LENGTH_DIGITS:
                return None
            request.length = int(value)
        elif name == b"connection":
            if value.lower() not in {b"keep-alive", b"close"}:
                return None
            request.keep_alive = request.keep_alive and value.lower() != b"close"
        elif name in _OTHERS:
            return None
    return request if hosts == 1 and lengths <= 1 else None


def answer_head(status: int, fields: Iterable[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """Return the head of an answer, with the date, and with `connection: close` if the connection will close.

    Raises:
        ValueError: a header contains a line break, which would start another header.
    """
    lines = [b"%b: %b\r\n" % field for field in fields]
    if close:
        lines.append(b"connection: close\r\n")
    head = b"".join((_STATUS_LINES[status], *lines, _date.line(), b"\r\n"))
    if head.count(b"\n") != len(lines) + 3 or head.count(b"\r") != len(lines) + 3:
        raise ValueError("a header of the answer contains a line break")
    return head


class _Date:
    """The date line, created once per second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())  # it has to show the wall clock (RFC 9110, 6.6.1)
        if now != self._second:
            self._second = now
            self._line = f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._line


_date: Final = _Date()


class Exchange:
    """`receive` and `send` of one request."""

    def __init__(self, connection: FastConnection, request: Request) -> None:
        self._connection = connection
        self._request = request
        #: The part of the body that the application has not received yet.
        self._left_bytes = request.length
        self._pace: Pace | None = None
        #: Whether the application has received the last piece of the body, even if empty.
        self._complete = False
        self._start: Message | None = None
        self._begun = False
        self._chunked = False
        self._answered = False
        #: Whether another request may follow.
        self.keep_alive = request.keep_alive

    @property
    def unread(self) -> bool:
        """Whether some of the request comes after its answer."""
        return self._left_bytes > len(self._connection.buffer)

    async def run(self, app: ASGIApp, common: dict[str, Any]) -> None:
        """Let the application answer; `common` is the common part of the connection's scopes."""
        connection = self._connection
        path, _, query = self._request.target.partition(b"?")
        scope = {
            **common,
            "method": self._request.method,
            "path": unquote(str(path, "ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": self._request.headers,
            "state": {"lost": connection.lost},
        }
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not connection.closing or self._answered:
                raise
        except Exception as exc:  # noqa: BLE001 - the connection ends, the proxy does not
            log.event("error", "unhandled exception in a request", **log.exception_fields(exc))
        if self._answered:
            if self.keep_alive and self._left_bytes:  # the unread rest is complete
                connection.buffer = connection.buffer[self._left_bytes :]
            return
        self.keep_alive = False
        if self._begun:
            connection.abort()
        elif connection.ended and self._left_bytes:  # half-closed; it may still read
            await self._refuse(
                problems.unread(Code.MALFORMED_REQUEST, "the request ended before its body was complete")
            )
        elif not connection.lost.done():
            await self._refuse(problems.unanswered(closing=connection.closing))

    async def _refuse(self, problem: problems.Problem) -> None:
        self._connection.refused(problem)
        body = b"" if self._request.method == "HEAD" else problem.body
        await self._connection.write(answer_head(problem.status, problem.fields, close=True) + body)

    async def receive(self) -> Message:
        """Return the next piece of the body; when it is complete, return when the client has left.

        Raises:
            RequestError: the body comes too slowly.
            AdmissionError: it is incomplete when the listener closes.
        """
        connection = self._connection
        if self._complete or self._answered:
            while not (connection.ended or self._answered):
                await connection.news()
            return _GONE
        if self._left_bytes and not connection.buffer:
            await self._wait_for_more()
            if not connection.buffer:
                return _GONE
        body = connection.buffer[: self._left_bytes]
        connection.buffer = connection.buffer[self._left_bytes :]
        self._left_bytes -= len(body)
        self._complete = not self._left_bytes
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    async def _wait_for_more(self) -> None:
        """Return when more of the body has arrived, or it ended."""
        connection = self._connection
        pace = self._pace = self._pace or Pace(connection.limits)
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection.time_limit(pace.left_s)
        while not (connection.buffer or connection.ended or connection.overdue or connection.closing):
            await connection.more()
        pace.step(loop.time() - began, len(connection.buffer))
        if connection.overdue or (connection.closing and not (connection.buffer or connection.ended)):
            length = self._request.length
            raise body_cut_off(length - self._left_bytes, length, closing=connection.closing)
        connection.time_limit(None)
        await turns.take()

    async def send(self, message: Message) -> None:
        """Send; a complete answer in one write. Raises ClientGoneError if the client does not read."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None or self._answered:
            return
        body = b"" if self._request.method == "HEAD" else message.get("body", b"")
        more = message.get("more_body", False)
        head = b"" if self._begun else self._head(self._start, body, more=more)
        self._answered = not more
        if self._chunked:
            end = b"" if more else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        await self._connection.write(head + body)

    def _head(self, start: Message, body: bytes, *, more: bool) -> bytes:
        fields = list(start["headers"])
        self.keep_alive = self.keep_alive and not self.unread and not self._connection.stopping
        is_head = self._request.method == "HEAD"  # its answer need not say how long that to GET is (RFC 9110, 9.3.2)
        if not is_head and all(name != b"content-length" for name, _ in fields):
            self._chunked = more
            fields.append((b"transfer-encoding", b"chunked") if more else (b"content-length", b"%d" % len(body)))
        head = answer_head(start["status"], fields, close=not self.keep_alive)
        self._begun = True
        return head
