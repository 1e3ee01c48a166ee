"""Reads request bodies: each within its own limit, and all unfinished ones within a common limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.http.asgi import ClientGoneError, header
from proxy.http.fair_turns import turns
from shared.errors import AdmissionError, Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

__all__ = ["Bodies"]

#: What bodies that are not complete may have together; or four of the largest that may come, if that is more.
_TOGETHER_BYTES: Final = 64 * 1024 * 1024
_TOGETHER_COUNT: Final = 4


class Bodies:
    """Reads bodies for one kind of request.

    Jobs and callbacks have one each, so that clients that send half of their bodies keep no callback from being read. A
    body that comes at once, as most do, is not counted: there is always room for it.
    """

    def __init__(self, max_bytes: int, together_bytes: int | None = None) -> None:
        """`max_bytes` is the limit of one body, `together_bytes` that of all incomplete ones."""
        self._max_bytes = max_bytes
        self._free_bytes = together_bytes or max(_TOGETHER_BYTES, _TOGETHER_COUNT * max_bytes)

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return a request's body.

        Raises:
            RequestError: it is too large, or comes too slowly (`receive` says so).
            AdmissionError: too much of other bodies is being read.
            ClientGoneError: the client left.
        """
        announced = header(scope, b"content-length")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            raise self._too_large()
        message = await receive()
        if not message.get("more_body", False):
            body: bytes = _piece(message)
            if len(body) > self._max_bytes:
                raise self._too_large()
            return body
        begun = bytearray(_piece(message))
        del message  # a large piece, which would be held until the last one has come
        return await self._read_on(receive, begun)

    async def _read_on(self, receive: Receive, body: bytearray) -> bytes:
        self._free_bytes -= len(body)
        try:
            more = True
            while more:
                more = self._add(body, await receive())
            await turns.take_for(len(body))
            return bytes(body)
        finally:
            self._free_bytes += len(body)

    def _add(self, body: bytearray, message: Message) -> bool:
        """Add a piece to `body`; return whether there are more."""
        piece = _piece(message)
        more: bool = message.get("more_body", False)
        body += piece
        self._free_bytes -= len(piece)
        if len(body) > self._max_bytes:
            raise self._too_large()
        if more and self._free_bytes < 0:
            raise AdmissionError(Code.OVERLOADED, "too many request bodies are being read")
        return more

    def _too_large(self) -> RequestError:
        return RequestError(Code.PAYLOAD_TOO_LARGE, f"the body is larger than {self._max_bytes} bytes")


def _piece(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    return body
