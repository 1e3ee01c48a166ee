"""What Hypercorn 0.18 does wrong and has no setting for; each fix stands in a section that names the bug.

`install` has Hypercorn make its connections from a class that is built on `HypercornConnection`. HTTP/2 and WebSockets
are not served, so their bugs are out of reach and need no fix.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Final

import h11
import hypercorn.asyncio.run as hypercorn_run
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import events
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from proxy import log
from proxy.http import problems
from proxy.http.lazy_timer import LazyTimer
from proxy.http.messages import Messages
from shared.errors import Code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import (
        AppWrapper,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

    from proxy.http.connections import Connections
    from proxy.http.fair_turns import Turns

__all__ = ["IDLE_S", "HypercornConnection", "ServerConfig", "install"]

#: A connection without a request is closed after so long; also one whose headers do not come.
IDLE_S: Final = 5.0
#: Events that are read in one round of the event loop: a chunk of a body may be one byte long.
_EVENTS_A_ROUND: Final = 64

Headers = list[tuple[bytes, bytes]]


class ServerConfig(Config):
    """The configuration of a listener, which Hypercorn hands to each of its connections."""

    # HTTP/1.1 is all that is offered, and all that is spoken.
    alpn_protocols = ["http/1.1"]  # noqa: RUF012 - a list, as Hypercorn has it
    include_server_header = False
    accesslog = None
    connections: Connections
    turns: Turns


def install(connection: type[HypercornConnection]) -> None:
    """Have Hypercorn make its connections from this class."""
    vars(hypercorn_run)["TCPServer"] = connection


# --- A queue whose reader leaves -------------------------------------------------------------------------------------
#
# A body's pieces go to the application through a queue of ten places. Where an application answers without reading the
# body, the next piece waits for ever, and with it the connection; or the application waits itself, to leave the message
# that the stream is closed.


class _Tasks(TaskGroup):
    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,  # noqa: ARG002 - as Hypercorn has it
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        messages = Messages()

        async def run() -> None:
            try:
                await app(scope, messages.get, send, _no_threads, _no_threads)
            except Exception as exc:  # noqa: BLE001 - the request ends, the proxy does not
                log.event("error", "unhandled exception in a request", kind=type(exc).__name__)
            finally:
                messages.leave()
                await send(None)

        self.spawn(run)
        return messages.put


def _no_threads(*_: object) -> None:
    raise NotImplementedError  # for WSGI applications only


# --- Empty answers ---------------------------------------------------------------------------------------------------
#
# Where Hypercorn answers by itself, it does so without a body.


class _Stream(HTTPStream):
    async def _send_error_response(self, _status_code: int) -> None:
        """Answer for an application that ended without an answer."""
        problem = problems.make(Code.INTERNAL_ERROR, "the request ended without an answer")
        await self.send(events.Response(stream_id=STREAM_ID, headers=_fields(problem), status_code=problem.status))
        if self.scope["method"] != "HEAD":
            await self.send(events.Body(stream_id=STREAM_ID, data=problem.body))
        await self.send(events.EndBody(stream_id=STREAM_ID))
        self.state = ASGIHTTPState.CLOSED


def _fields(problem: problems.Problem) -> Headers:
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(problem.body)),
        *problem.headers,
    ]


# --- A request and what comes with it --------------------------------------------------------------------------------
#
# - A stray byte after the last request of a connection gets the 400 that was to be the request's answer.
# - A request with a length and chunks is read by its chunks, which is how requests are smuggled (RFC 9112, 6.1).
# - An upgrade to HTTP/2 that is broken off leaves two tasks behind. Upgrades are ignored (RFC 9110, 7.8).
# - A second request that waits behind one which closes the connection waits for ever.
# - What is read at once is worked off at once, however many chunks it has.
# - A client that waits to be asked for the body (RFC 9110, 10.1.1) is asked before the application wants it.

#: States in which a side has nothing more to say that the other should hear.
_SILENT: Final = frozenset({h11.MUST_CLOSE, h11.CLOSED, h11.ERROR})


class _HTTP1(H11Protocol):
    config: ServerConfig

    @property
    def _over(self) -> bool:
        """Whether what still comes is for nobody."""
        return self.connection.their_state in _SILENT or self.connection.our_state in _SILENT

    @property
    def busy(self) -> bool:
        """Whether there is a request."""
        return self.stream is not None

    @property
    def unread(self) -> bool:
        """Whether some of a request may still come."""
        return self.connection.their_state in {h11.IDLE, h11.SEND_BODY, h11.ERROR}

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
        elif not self._over:
            self.connection.receive_data(event.data)
            await self._handle_events()

    async def _handle_events(self) -> None:
        for number in itertools.count(1):
            if self._over:
                return
            if not number % _EVENTS_A_ROUND:
                await asyncio.sleep(0)
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_broken(error)
                return
            match event:
                case h11.NEED_DATA | h11.ConnectionClosed():
                    return
                case h11.PAUSED:
                    await self.can_read.clear()
                    await self.can_read.wait()
                case h11.Request():
                    await self.send(Updated(idle=False))
                    await self._create_stream(event)
                case h11.Data() if self.stream is not None:
                    await self.stream.handle(events.Body(stream_id=STREAM_ID, data=bytes(event.data)))
                case h11.EndOfMessage() if self.stream is not None:
                    await self.stream.handle(events.EndBody(stream_id=STREAM_ID))

    async def _create_stream(self, request: h11.Request) -> None:
        head_only = request.method == b"HEAD"
        names = {name for name, _ in request.headers}
        if not request.http_version.startswith(b"1."):
            detail = "only HTTP/1.1 is supported here; HTTP/2 needs a gateway in front"
            await self._refuse(Code.HTTP_VERSION_NOT_SUPPORTED, detail, head_only=head_only)
        elif names >= {b"content-length", b"transfer-encoding"}:
            await self._refuse(Code.MALFORMED_REQUEST, "the request has a length and chunks", head_only=head_only)
        else:
            self.stream = _Stream(
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
                    headers=list(request.headers),
                    http_version=request.http_version.decode("ascii"),
                    method=request.method.decode("ascii").upper(),
                    raw_path=request.target,
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
        """Run the application; whoever waits to be asked for the body is asked when the application asks for it."""

        async def receive_asked() -> ASGIReceiveEvent:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
            return await receive()

        await self.app(scope, receive_asked, send, sync_spawn, call_soon)

    async def stream_send(self, event: events.Event) -> None:
        """Send; where a request may still come that is not to be answered, say that this answer is the last."""
        if isinstance(event, events.Response) and (self.unread or self.config.connections.stopping):
            event = dataclasses.replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _refuse_broken(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no request; an answer under way is not disturbed by it."""
        code = _CODES.get(error.error_status_hint, Code.MALFORMED_REQUEST)
        await self._refuse(code, f"this is not HTTP/1.1: {error}")

    async def _refuse(self, code: Code, detail: str, *, head_only: bool = False) -> None:
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        await self._close_stream()
        problem = problems.make(code, detail)
        fields = [*_fields(problem), *self.config.response_headers("h11"), (b"connection", b"close")]
        await self._send_h11_event(h11.Response(headers=fields, status_code=problem.status))
        if not head_only:
            await self._send_h11_event(h11.Data(data=problem.body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())


#: What h11 says that is not a plain 400.
_CODES: Final = {431: Code.HEADERS_TOO_LARGE, 501: Code.NOT_IMPLEMENTED}


# --- The time and the end of a connection ----------------------------------------------------------------------------
#
# - A connection whose peer has left stays for as long as an idle one may.
# - A burst of requests keeps the event loop from everything else.
# - What was sent is lost where the connection is closed with something unread: the kernel then resets it.


class HypercornConnection(TCPServer):
    """One connection, from the first byte to the last."""

    config: ServerConfig
    _http: _HTTP1
    _ended = False
    _closing = False

    async def run(self) -> None:
        """Serve the connection."""
        connections = self.config.connections
        self._timer = LazyTimer(self._expire)
        self._timer.set(IDLE_S)
        try:
            tasks = _Tasks(self.loop)
            async with tasks:
                self._http = self._protocol(tasks)
                connections.open.add(self)
                await self._read_data()
        except OSError:  # the peer has left before its address was asked for
            pass
        finally:
            await self._close()
            self._timer.close()
            connections.open.discard(self)

    def _protocol(self, tasks: _Tasks) -> _HTTP1:
        peer = self.writer.get_extra_info("socket")
        return _HTTP1(
            self.app,
            self.config,
            self.context,
            tasks,
            ConnectionState(self.state),
            self.writer.get_extra_info("ssl_object") is not None,
            parse_socket_addr(peer.family, peer.getpeername()),
            parse_socket_addr(peer.family, peer.getsockname()),
            self.protocol_send,
        )

    async def _read_data(self) -> None:
        while data := await self._read():
            if not self._closing:
                await self.config.turns.take()
                await self._http.handle(RawData(data))
        self._ended = True
        if not self._closing:
            await self._http.handle(RawData(b""))
        await self._http.handle(Closed())

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(MAX_RECV)
        except OSError:
            return b""

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note when the connection has a request."""
        match event:
            case RawData():
                await self._write(event.data)
            case Closed():
                self._half_close()
            case Updated(idle=True):
                self._timer.set(IDLE_S)
            case Updated():
                self._timer.clear()

    async def _write(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    def _half_close(self) -> None:
        """Send nothing more, and throw away what comes until the peer has closed as well, or its time is over."""
        self._closing = True
        transport = self.writer.transport
        halves = transport.can_write_eof()  # TLS has none
        if self._ended or self.config.connections.stopping or not (halves or self._http.unread):
            transport.close()
        elif halves and not transport.is_closing():
            transport.write_eof()
        self._timer.set(IDLE_S)

    def _expire(self) -> None:
        transport = self.writer.transport
        if self._closing or transport.is_closing():
            transport.abort()
        else:
            transport.close()
            self._timer.set(IDLE_S)

    def stop(self) -> None:
        """Close at once where there is no request."""
        if not self._http.busy:
            self.writer.transport.close()

    async def _close(self) -> None:
        self._closing = True
        self._timer.set(IDLE_S)
        with contextlib.suppress(OSError):
            self.writer.close()
            await self.writer.wait_closed()
