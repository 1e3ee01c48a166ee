"""Hypercorn: serve an application on a socket until told to stop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from hypercorn.asyncio import run as hypercorn_run
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config

from proxy.sockets import BACKLOG

if TYPE_CHECKING:
    import socket

    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp

__all__ = ["Listener"]

#: A connection without a request is closed after so long; also one whose headers do not come.
_IDLE_S: Final = 5
#: How long Hypercorn may take to finish answers once a listener is told to stop.
_FINISH_S: Final = 3.0


class _Connection(TCPServer):
    """A connection; one whose peer has left goes at once, where Hypercorn would keep it as long as an idle one."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()  # does not run while there is a request: an answer under way is not cut


hypercorn_run.TCPServer = _Connection  # type: ignore[attr-defined] # Hypercorn has no setting for it


class Listener:
    """One address that is served by one application until it is told to stop."""

    def __init__(self, listener: socket.socket, app: ASGIApp, *, certfile: str = "", keyfile: str = "") -> None:
        """Take over `listener`; speak TLS where there is a certificate."""
        self._listener = listener
        self._app = app
        self._certfile = certfile
        self._keyfile = keyfile
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept connections."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def stop(self) -> None:
        """Accept no further connection; answers under way are finished."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until everything is closed, but not for a client that does not read."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_FINISH_S + 1)

    async def _serve(self) -> None:
        config = Config()
        config.bind = [f"fd://{self._listener.detach()}"]
        config.backlog = BACKLOG
        config.keep_alive_timeout = _IDLE_S
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
