"""A request and everything that belongs to it.

- A stray byte after the last request of a connection gets the 400 in place of the request's answer.
- A request with both a length and chunks is read by its chunks, which allows request smuggling (RFC 9112, 6.1).
- An aborted upgrade to HTTP/2 leaves two tasks behind. Upgrades are ignored (RFC 9110, 7.8).
- A second request that waits behind one that closes the connection waits forever.
- Everything that is read at once is processed at once, however many chunks it has, and each chunk costs 75 us.
- A client that waits for `100 Continue` (RFC 9110, 10.1.1) gets it before the application wants the body.
- A request that is refused before the application sees it gets an empty answer.
- A target in absolute form is taken for a path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from typing import TYPE_CHECKING, Any, Final

import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import events
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol

from proxy.http import problems
from proxy.http.asgi import ClientGoneError
from proxy.http.fair_turns import turns
from proxy.http.hypercorn_fixes.application import Stream
from proxy.http.target import in_origin_form
from shared.errors import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, Scope

    from proxy.http.hypercorn_fixes.config import ServerConfig
    from proxy.http.time_limits import Limits

__all__ = ["HTTP1"]

#: Events that are processed in one turn: a chunk of a body may be one byte long.
_EVENTS_A_TURN: Final = 64
_HEAD_END: Final = re.compile(rb"\n\r?\n")
#: Where h11 quotes received bytes, which may contain a callback token: its messages are logged.
_QUOTATION: Final = re.compile(r":? (?:bytearray\(|b['\"])")
_PROXY_PROTOCOL: Final = (
    "it is the PROXY protocol; have the balancer send the client's address in X-Forwarded-For instead"
)
#: Other protocols that are sent to this address by mistake.
_OTHERS: Final = (
    (b"\x16\x03", "it is TLS, and this address speaks plain HTTP"),
    (b"PROXY ", _PROXY_PROTOCOL),
    (b"\0\r", _PROXY_PROTOCOL),  # version 2, without the empty lines at its beginning
)
#: States in which a side has said everything, and in which it has nothing more to say.
_DONE: Final = frozenset({h11.MUST_CLOSE, h11.CLOSED})
_SILENT: Final = _DONE | {h11.ERROR}


_Event = h11.Event | h11.Data | type[h11.NEED_DATA] | type[h11.PAUSED]


class HTTP1(H11Protocol):
    """The requests of a connection, one after the other."""

    config: ServerConfig
    connection: h11.Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._body = bytearray()
        #: The received part of the first line of the current or last request head.
        self._beginning = b""
        #: Whether the next answer is the last.
        self.last = False
        #: Whether the client has left.
        self._left = False

    @property
    def _limits(self) -> Limits:
        return self.config.connections.limits

    @property
    def _over(self) -> bool:
        """Whether further bytes are ignored."""
        return self._left or self.connection.their_state in _SILENT or self.connection.our_state in _SILENT

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        return self.stream is not None

    @property
    def failed(self) -> bool:
        """Whether an answer was aborted."""
        return self.connection.our_state is h11.ERROR

    @property
    def in_head(self) -> bool:
        """Whether a head has begun but is incomplete."""
        return self.connection.their_state is h11.IDLE and bool(self.connection.trailing_data[0])

    @property
    def unread(self) -> bool:
        """Whether a part of a request may still come."""
        return self.connection.their_state in {h11.IDLE, h11.SEND_BODY, h11.ERROR}

    async def handle(self, event: Event) -> None:
        """Process what the client sent, or its disconnect."""
        if not isinstance(event, RawData):
            await super().handle(event)
        elif not self._over:
            self.connection.receive_data(event.data)
            await self._handle_events()

    async def leave(self) -> None:
        """Process that the client has left, even if what it sent before has to wait for an answer."""
        self._left = True
        await self.handle(Closed())
        await self.can_read.set()

    async def _handle_events(self) -> None:
        for number in itertools.count(1):
            if not number % _EVENTS_A_TURN:
                await turns.take()
            event = await self._next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                continue
            await self._hand_on_body()
            if event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            elif isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                await self._create_stream(event)
            elif not isinstance(event, h11.EndOfMessage):
                return  # more has to come, or nothing will
            elif self.stream is not None:
                await self.stream.handle(events.EndBody(stream_id=STREAM_ID))

    async def _next_event(self) -> _Event:
        """Return the next event; NEED_DATA also if what arrived was refused or is ignored."""
        if self._over:
            return h11.NEED_DATA
        if self._is_head_too_large():
            most = f"{self._limits.head_bytes} bytes or {self._limits.headers} headers"
            await self._refuse(Code.HEADERS_TOO_LARGE, f"the request has more than {most}")
            return h11.NEED_DATA
        if self.connection.their_state is h11.IDLE and self.connection.trailing_data == (b"\r", False):
            return h11.NEED_DATA  # half of an excess line end, which h11 takes for a request line
        try:
            return self.connection.next_event()
        except h11.RemoteProtocolError as error:
            error.__traceback__ = None  # it refers to the error: without the garbage collector, neither would be freed
            code = _CODES.get(error.error_status_hint, Code.MALFORMED_REQUEST)
            await self._refuse(
                code, f"this is not HTTP/1.1: {self._otherwise() or _QUOTATION.split(str(error), maxsplit=1)[0]}"
            )
            return h11.NEED_DATA

    def _otherwise(self) -> str:
        """Return which protocol it is instead, if its beginning shows that."""
        return next((words for begin, words in _OTHERS if self._beginning.startswith(begin)), "")

    async def _hand_on_body(self) -> None:
        """Pass chunks that arrived together on as one piece: each message costs as much as ten chunks."""
        if self._body and self.stream is not None:
            await self.stream.handle(events.Body(stream_id=STREAM_ID, data=bytes(self._body)))
        self._body.clear()

    def _is_head_too_large(self) -> bool:
        """Check a head before h11 does, which takes 7 ms for 16 KiB of short lines."""
        if self.connection.their_state is not h11.IDLE:
            return False
        data, ended = self.connection.trailing_data
        if data.startswith(b"\r\n"):  # the excess line end of the previous body (RFC 9112, 2.2)
            data = data.lstrip(b"\r\n") or data[-1:].removesuffix(b"\n")
            self.connection = h11.Connection(h11.SERVER, self.config.h11_max_incomplete_size)
            if data:  # h11 would take empty data for the end
                self.connection.receive_data(data)
            if ended:
                self.connection.receive_data(b"")
        self._beginning = data.partition(b"\n")[0]
        end = _HEAD_END.search(data)
        size = end.end() if end else len(data)
        return size > self._limits.head_bytes or data.count(b"\n", 0, size) > self._limits.headers + 2

    def _refusal(self, request: h11.Request) -> tuple[Code, str] | None:
        names = {name for name, _ in request.headers}
        if not request.http_version.startswith(b"1."):
            return Code.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is supported here; HTTP/2 needs a gateway in front"
        if names >= {b"content-length", b"transfer-encoding"}:
            return Code.MALFORMED_REQUEST, "the request has a length and chunks"
        return None

    async def _create_stream(self, request: h11.Request) -> None:
        head_only = request.method == b"HEAD"
        if refusal := self._refusal(request):
            await self._refuse(*refusal, head_only=head_only)
            return
        located = in_origin_form(request.target, request.headers)
        if located is None:
            detail = "the target is not an http or https URL with a host"
            await self._refuse(Code.MALFORMED_REQUEST, detail, head_only=head_only)
            return
        target, headers = located
        self.stream = Stream(
            self._app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            events.Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )

    async def _app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        """Run the application; a client that waits for `100 Continue` gets it when the body is asked for."""

        async def receive_asked() -> ASGIReceiveEvent:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
            return await receive()

        await self.app(scope, receive_asked, send, sync_spawn, call_soon)

    async def stream_send(self, event: events.Event) -> None:
        """Send; if a request may still come that will not be answered, say that this answer is the last."""
        if self.connection.our_state in _DONE and not isinstance(event, events.StreamClosed):
            return  # the request was refused before the application answered
        if isinstance(event, events.Response) and (self.unread or self.last or self.config.connections.stopping):
            event = dataclasses.replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        if self.connection.our_state is h11.SEND_BODY:  # the application has ended, its answer has not
            self.connection.send_failed()
        await super()._maybe_recycle()

    async def _refuse(self, code: Code, detail: str, *, head_only: bool = False) -> None:
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        beginning = self._beginning if self.stream is None else b""
        await self._close_stream()
        problem = problems.unread(code, detail)
        self.config.connections.refused(problem, self.client, beginning)
        fields = [*problem.fields, *self.config.response_headers("h11"), (b"connection", b"close")]
        with contextlib.suppress(ClientGoneError):
            await self._send_h11_event(h11.Response(headers=fields, status_code=problem.status))
            if not head_only:
                await self._send_h11_event(h11.Data(data=problem.body))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    async def refuse_late(self) -> None:
        """Answer a request whose headers did not arrive in time."""
        await self._refuse(Code.REQUEST_TIMEOUT, "the headers did not come in time")


#: Statuses of h11 other than a plain 400.
_CODES: Final = {431: Code.HEADERS_TOO_LARGE, 501: Code.NOT_IMPLEMENTED}
