"""Hypercorn: serve an application on a socket until told to stop.

Plain HTTP/1.1 is served by proxy/http/fast/connection.py, all else by Hypercorn itself. Five things of Hypercorn 0.18
are put right here, as it has no setting for them: a burst of requests keeps the event loop from everything else
(proxy/http/fair_turns.py); a
connection whose peer has left stays for as long as an idle one may; an HTTP/2 connection breaks, with every stream on
it, when the body of a request comes after the answer; a request may have a length and chunks, or leave tasks behind by
an upgrade to HTTP/2; and what asyncio catches is printed with a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, cast

import hypercorn.protocol as hypercorn_protocol
from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.utils import parse_socket_addr

from proxy import log
from proxy.http.fair_turns import Turns
from proxy.http.fast.connection import HTTP1, IDLE_S, Connections
from proxy.http.fast.exchange import EXTENSION
from proxy.http.listening import BACKLOG

if TYPE_CHECKING:
    import socket

    import h11
    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp

__all__ = ["Listener"]

#: How long Hypercorn may take to finish answers once a listener is told to stop.
_FINISH_S: Final = 3.0
#: Requests that begin in one round of the event loop, over all listeners; each is some tenths of a millisecond of work.
_TURNS: Final = 8

_turns: Final = Turns(_TURNS)


class _Config(Config):
    """A listener's configuration, with which Hypercorn makes its connections."""

    app: ASGIApp
    connections: Connections


class _Connection(TCPServer):
    """A connection that waits for its turn, and goes at once when its peer has left and has had its answers."""

    _peer_left = False

    async def run(self) -> None:
        """Serve the connection."""
        await _turns.take()
        tls = self.writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            await super().run()
            return
        try:
            scope = _scope(self.writer, "http" if tls is None else "https")
        except OSError:  # the client has left again
            self.writer.transport.abort()
            return
        config = cast("_Config", self.config)
        transport = cast("asyncio.Transport", self.writer.transport)
        plain = HTTP1(config.app, config.connections, _turns, transport, scope)
        with contextlib.suppress(OSError):
            if await plain.serve(self.reader):
                await super().run()

    async def _read_data(self) -> None:
        reader = self.reader
        while not reader.at_eof():
            try:
                data = await reader.read(MAX_RECV)
            except OSError:
                break
            await _turns.take()
            await self.protocol.handle(RawData(data))
        self._peer_left = True
        await self.protocol.handle(Closed())
        await self.idle_task.stop()  # does not run while there is a request: an answer under way is not cut

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or keep the time of an idle connection; one that nobody will ask again has no such time."""
        if not (self._peer_left and isinstance(event, Updated)):
            await super().protocol_send(event)


class _GoneStream:
    """Takes what comes for an HTTP/2 stream that has had its answer or was reset: it concerns nobody."""

    idle = True

    async def handle(self, _event: object) -> None:
        """Drop it."""


class _Streams(dict[int, Any]):
    def __missing__(self, _stream_id: int) -> _GoneStream:
        return _GoneStream()


class _H2Protocol(H2Protocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.streams = _Streams()


class _H11Protocol(H11Protocol):
    """Refuses a request with a length and chunks, which is how requests are smuggled (RFC 9112, 6.3).

    And goes on with HTTP/1.1 where the client offers HTTP/2: of an upgrade that the client breaks off two tasks stay.
    """

    async def _create_stream(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        if names >= {b"content-length", b"transfer-encoding"}:
            await self._send_error_response(400)
            await self.send(Closed())
            return
        await super()._create_stream(request)

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI":  # the upgrade from HTTP/1.1 is no longer a part of HTTP/2 (RFC 9113, 3.1)
            await super()._check_protocol(event)


vars(hypercorn_run)["TCPServer"] = _Connection
vars(hypercorn_protocol)["H11Protocol"] = _H11Protocol
vars(hypercorn_protocol)["H2Protocol"] = _H2Protocol


def _scope(writer: asyncio.StreamWriter, scheme: str) -> dict[str, Any]:
    """Return what the requests of a connection have in common, as Hypercorn has it. Raises OSError if it is gone."""
    socket = writer.get_extra_info("socket")
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "scheme": scheme,
        "root_path": "",
        "client": parse_socket_addr(socket.family, socket.getpeername()),
        "server": parse_socket_addr(socket.family, socket.getsockname()),
        "extensions": {EXTENSION: {}},
    }


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio caught where nobody else could, in one line."""
    kind = type(context.get("exception")).__name__
    log.event("error", "the event loop caught an error", caught=str(context.get("message", "")), kind=kind)


class Listener:
    """One address that is served by one application until it is told to stop."""

    def __init__(self, listener: socket.socket, app: ASGIApp, *, certfile: str = "", keyfile: str = "") -> None:
        """Take over `listener`; speak TLS where there is a certificate."""
        self._listener = listener
        self._app = app
        self._certfile = certfile
        self._keyfile = keyfile
        self._stop = asyncio.Event()
        self._connections = Connections()
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open, without those that are Hypercorn's."""
        return len(self._connections.open)

    def start(self) -> None:
        """Begin to accept connections."""
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def stop(self) -> None:
        """Accept no further connection; answers under way are finished."""
        self._stop.set()
        self._connections.stop()

    async def stopped(self) -> None:
        """Wait until everything is closed, but not for a client that does not read."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_FINISH_S + 1)

    async def _serve(self) -> None:
        config = _Config()
        config.app = self._app
        config.connections = self._connections
        config.bind = [f"fd://{self._listener.detach()}"]
        config.backlog = BACKLOG
        config.keep_alive_timeout = IDLE_S
        config.graceful_timeout = _FINISH_S
        config.include_server_header = False
        config.accesslog = None
        config.errorlog = _hypercorn_log()
        config.certfile = self._certfile or None
        config.keyfile = self._keyfile or None
        app = cast("ASGIFramework", self._app)  # the same thing, typed by another library
        await serve(app, config, shutdown_trigger=self._stop.wait, mode="asgi")


def _hypercorn_log() -> logging.Logger:
    """Return a log that keeps Hypercorn's words, which may hold paths with tokens and tracebacks, to itself."""
    log = logging.getLogger("proxy.hypercorn")
    log.propagate = False
    log.addHandler(logging.NullHandler())
    return log
