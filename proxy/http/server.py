"""Hypercorn: serve an application on a socket until told to stop.

Plain HTTP/1.1 requests are served by proxy/http/fast/, all else by Hypercorn, with what proxy/http/hypercorn_fixes.py
puts right.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from hypercorn.asyncio import serve
from hypercorn.utils import parse_socket_addr

from proxy import log
from proxy.http.connections import Connections
from proxy.http.fair_turns import turns
from proxy.http.fast.connection import HTTP1
from proxy.http.fast.exchange import EXTENSION
from proxy.http.hypercorn_fixes import HypercornConnection, ServerConfig, install
from proxy.http.listening import BACKLOG

if TYPE_CHECKING:
    import socket
    from ssl import SSLContext

    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp

__all__ = ["Listener"]

#: How long Hypercorn may take to finish answers once a listener is told to stop.
_FINISH_S: Final = 3.0


class _Config(ServerConfig):
    """A listener's configuration, with which Hypercorn makes its connections."""

    app: ASGIApp
    #: What new connections speak TLS with, as long as the listener serves.
    tls: SSLContext | None = None

    def create_ssl_context(self) -> SSLContext | None:
        """Return the context, and keep it, as its certificate may be replaced."""
        self.tls = super().create_ssl_context()
        return self.tls


class _Connection(HypercornConnection):
    """A connection, which serves plain requests until one comes that is not."""

    async def run(self) -> None:
        """Serve the connection."""
        config = cast("_Config", self.config)
        await config.turns.take()
        tls = self.writer.get_extra_info("ssl_object")
        try:
            scope = _scope(self.writer, "http" if tls is None else "https")
        except OSError:  # the client has left again
            self.writer.transport.abort()
            return
        transport = cast("asyncio.Transport", self.writer.transport)
        plain = HTTP1(config.app, config.connections, config.turns, transport, scope)
        if await plain.serve(self.reader):
            await super().run()


install(_Connection)


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
    log.event("error", "unhandled exception in the event loop", caught=str(context.get("message", "")), kind=kind)


class Listener:
    """One address that is served by one application until it is told to stop."""

    def __init__(self, listener: socket.socket, app: ASGIApp, *, certfile: str = "", keyfile: str = "") -> None:
        """Take over `listener`; speak TLS where there is a certificate."""
        self._listener = listener
        self._app = app
        self._config = _Config()
        self._config.certfile = certfile or None
        self._config.keyfile = keyfile or None
        self._stop = asyncio.Event()
        self._connections = Connections()
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections.open)

    def start(self) -> None:
        """Begin to accept connections."""
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def reload_certificate(self, certfile: str, keyfile: str) -> None:
        """Let connections that are made from now on have this certificate, if the listener speaks TLS.

        The files have to fit each other: a context that they do not fit is left with one of the two.
        """
        if self._config.tls is not None:
            self._config.tls.load_cert_chain(certfile, keyfile)

    def stop(self) -> None:
        """Accept no further connection; answers under way are finished."""
        self._stop.set()
        self._connections.stop()

    async def stopped(self) -> None:
        """Wait until everything is closed, but not for a client that does not read."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_FINISH_S + 1)

    async def _serve(self) -> None:
        config = self._config
        config.app = self._app
        config.connections = self._connections
        config.turns = turns
        config.bind = [f"fd://{self._listener.detach()}"]
        config.backlog = BACKLOG
        config.graceful_timeout = _FINISH_S
        config.errorlog = _hypercorn_log()
        app = cast("ASGIFramework", self._app)  # the same thing, typed by another library
        await serve(app, config, shutdown_trigger=self._stop.wait, mode="asgi")


def _hypercorn_log() -> logging.Logger:
    """Return a log that keeps Hypercorn's words, which may hold paths with tokens and tracebacks, to itself."""
    log = logging.getLogger("proxy.hypercorn")
    log.propagate = False
    log.addHandler(logging.NullHandler())
    return log
