"""One plain request and its answer, as the application sees them (ASGI 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote

from proxy import log
from proxy.http.fast.head import Request, answer_head

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

__all__ = ["EXTENSION", "Connection", "Exchange"]

#: A key of a scope's `extensions`. Where it is, the first `receive` gives what is there without waiting, be it nothing;
#: and `send` raises TimeoutError by itself where the client does not read.
EXTENSION: Final = "proxy.http.fast.connection"
_BAD_REQUEST: Final = 400
_GONE: Final = {"type": "http.disconnect"}


class Connection(Protocol):
    """What an exchange needs of its connection (proxy/http/fast/connection.py)."""

    buffer: bytes
    ended: bool
    gone: bool

    @property
    def stopping(self) -> bool:
        """Whether this answer is to be the last."""

    async def more(self) -> None:
        """Return when there may be more in `buffer`."""

    async def news(self) -> None:
        """Return when something came, or ended; do not ask for more."""

    async def turn(self) -> None:
        """Return when it is this connection's turn."""

    async def write(self, data: bytes) -> None:
        """Send."""

    def abort(self) -> None:
        """Close at once."""


class Exchange:
    """`receive` and `send` of one request."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        #: Of the body, what the application has not had.
        self._left_bytes = request.length
        self._asked = False
        self._start: Message | None = None
        self._begun = False
        self._chunked = False
        self._answered = False
        #: Whether another request may follow.
        self.keep_alive = request.keep_alive

    @property
    def unread(self) -> bool:
        """Whether some of the request may come after its answer."""
        return self._left_bytes > 0

    async def run(self, app: ASGIApp, common: dict[str, Any]) -> None:
        """Have the application answer; `common` is what all of the connection's scopes have."""
        path, _, query = self._request.target.partition(b"?")
        scope = {
            **common,
            "method": self._request.method,
            "path": unquote(str(path, "ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": self._request.headers,
            "state": {},
        }
        try:
            await app(scope, self.receive, self.send)
        except Exception as exc:  # noqa: BLE001 - the connection ends, the proxy does not
            log.event("error", "unhandled exception in a request", kind=type(exc).__name__)
        connection = self._connection
        if self._answered:
            if self.keep_alive and self._left_bytes:  # what nobody asked for is all there
                connection.buffer = connection.buffer[self._left_bytes :]
            return
        self.keep_alive = False
        if not self._begun and connection.ended:  # by half; it may still read
            await connection.write(answer_head(_BAD_REQUEST, [(b"content-length", b"0")], close=True))
        else:
            connection.abort()

    async def receive(self) -> Message:
        """Return the next piece of the body; when it is complete, return when the client has left."""
        connection = self._connection
        if self._asked:
            if self._answered:
                return _GONE
            if not self._left_bytes:
                while not connection.ended:
                    await connection.news()
                return _GONE
            while not (connection.buffer or connection.ended):
                await connection.more()
            await connection.turn()
            if not connection.buffer:
                return _GONE
        self._asked = True
        body = connection.buffer[: self._left_bytes]
        connection.buffer = connection.buffer[self._left_bytes :]
        self._left_bytes -= len(body)
        return {"type": "http.request", "body": body, "more_body": self._left_bytes > 0}

    async def send(self, message: Message) -> None:
        """Send; a whole answer in one write. Raises TimeoutError where the client does not read."""
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
        names = [name for name, _ in fields]
        connection = self._connection
        if b"connection" in names:  # the application has only one thing to say about it
            self.keep_alive = False
            close = False
        else:
            unread = self._left_bytes > len(connection.buffer)
            close = not self.keep_alive or unread or connection.stopping
            self.keep_alive = not close
        if b"content-length" not in names:
            self._chunked = more and self._request.method != "HEAD"
            fields.append((b"transfer-encoding", b"chunked") if more else (b"content-length", b"%d" % len(body)))
        head = answer_head(start["status"], fields, close=close)
        self._begun = True
        return head
