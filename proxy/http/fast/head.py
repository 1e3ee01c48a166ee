"""The head of a plain HTTP/1.1 request, and the head of an answer.

Plain is what nearly every client and job server sends: origin form, one `Host`, at most one `Content-Length`, lines
that end in CRLF, nothing that needs more than an answer. Everything else in HTTP/1.1, valid or not, is not judged here:
it goes to Hypercorn, byte for byte. So nothing is accepted that h11 would refuse or understand differently, and nothing
can be smuggled past this parser that could not be before; tests/unit/http/fast/test_head.py compares the two.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Request", "answer_head", "parse"]

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


@dataclass(slots=True)
class Request:
    """A plain head, parsed."""

    method: str
    target: bytes
    #: Names in lower case.
    headers: list[tuple[bytes, bytes]]
    #: Of the body, in bytes.
    length: int = 0
    #: Whether the client asks for more than this one answer.
    keep_alive: bool = True


def parse(head: bytes) -> Request | None:
    """Return what a head, without the empty line at its end, says; None if it is not plain."""
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
        ValueError: a header contains a line break, and would begin another one.
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
        now = int(time.time())  # it reports the wall clock (RFC 9110, 6.6.1)
        if now != self._second:
            self._second = now
            self._line = f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._line


_date: Final = _Date()
