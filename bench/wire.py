"""Just enough HTTP/1.1 to load a proxy at low cost: only messages with a Content-Length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Message", "MessageReader", "request", "response"]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response."""

    #: Request line or status line.
    start: bytes
    body: bytes
    #: Whether the sender closes the connection after it.
    close: bool

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(b" ", 2)[1])

    @property
    def route(self) -> bytes:
        """Method and path of a request."""
        return self.start.rpartition(b" ")[0]


class MessageReader:
    """Cuts a stream into messages. Raises ValueError for a body of unknown length."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every message that `data` completes."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = _content_length(head)
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            start = self._buffer[: self._buffer.index(b"\r\n")]
            self._buffer = self._buffer[end + 4 + length :]
            yield Message(start, body, b"\r\nconnection: close" in head)


def _content_length(head: bytes) -> int:
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if found:
        return int(rest.partition(b"\r\n")[0])
    if b"\r\ntransfer-encoding:" in head:
        raise ValueError("the benchmark reads no chunked bodies")
    return 0


def request(method: str, host: str, path: str, document: object = None) -> bytes:
    """Return a request; with a JSON body unless `document` is None."""
    body = b"" if document is None else json.dumps(document).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def response(status: str, document: object, *, close: bool = False) -> bytes:
    """Return a response with a JSON body."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + (b"Connection: close\r\n\r\n" if close else b"\r\n") + body
