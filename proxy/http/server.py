"""Hypercorn: serve an application on a socket until told to stop.

Plain HTTP/1.1 requests are served by proxy/http/fast/, all others by Hypercorn, with the fixes of
proxy/http/hypercorn_fixes/.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, cast

from hypercorn.asyncio import serve

from proxy import log
from proxy.http.connections import Connections, Room
from proxy.http.fair_turns import turns
from proxy.http.fast.connection import FastConnection
from proxy.http.hypercorn_fixes.config import ServerConfig
from proxy.http.hypercorn_fixes.connection import HypercornConnection, install
from proxy.http.listening import has_queued, ignore_new

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from hypercorn.typing import ASGIFramework
    from starlette.types import ASGIApp

    from proxy.http.connections import OnRefused
    from proxy.http.time_limits import Limits

__all__ = ["Listener"]

#: How long requests may take once the rest of the process is ready to end, and then their last answers.
_FINISH_S: Final = 3.0
_LAST_S: Final = 0.5
#: How often to look for connections that the kernel has accepted when the listener stops, and for how long at most.
_ACCEPT_S: Final = 0.1
_ACCEPT_TURNS: Final = 8
#: How long the last TLS handshakes and the requests after them may take then.
_HANDSHAKE_S: Final = 0.5
#: How much of an answer TLS takes before it is sent; by default 512 KiB, for which a slow client could take any time.
_TLS_BUFFER_BYTES: Final = 65_536


class _Connection(HypercornConnection):
    """A connection; if `fast` is on, proxy/http/fast/ serves it until a request comes that is not plain."""

    async def run(self) -> None:
        """Serve the connection."""
        config = self.config
        transport = cast("asyncio.Transport", self.writer.transport)
        if not transport.is_closing():
            transport.pause_reading()  # what arrives waits in the kernel, which limits it, until it can be used
        if config.tls is not None:
            transport.set_write_buffer_limits(_TLS_BUFFER_BYTES)
        config.connections.room.make()
        await turns.take()
        if not config.fast or await self._is_left_by_fast():
            if not transport.is_closing():
                transport.resume_reading()
            await super().run()

    async def _is_left_by_fast(self) -> bool:
        try:
            fast = FastConnection(self.config.app, self.config.connections, self.writer)
        except OSError:  # the client has left again
            self.writer.transport.abort()
            return False
        return await fast.serve(self.reader)


install(_Connection)


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log errors that only asyncio caught, in one line."""
    fields = log.exception_fields(context.get("exception"))
    log.event("error", "unhandled exception in the event loop", caught=str(context.get("message", "")), **fields)


class Listener:
    """One address, served by one application until it is told to stop."""

    def __init__(
        self,
        listener: socket.socket,
        app: ASGIApp,
        *,
        limits: Limits,
        room: Room | None = None,
        on_refused: OnRefused | None = None,
        fast: bool = True,
        certfile: str = "",
        keyfile: str = "",
    ) -> None:
        """Take over `listener`; speak TLS if there is a certificate.

        `room` is shared by all listeners of the process. `on_refused` gets each request that is refused before `app`
        sees it. With `fast`, plain requests are served without Hypercorn.
        """
        self._listener = listener
        self._connections = Connections(limits, room or Room(), on_refused)
        config = self._config = ServerConfig()
        config.app, config.fast, config.connections = app, fast, self._connections
        config.certfile, config.keyfile = certfile or None, keyfile or None
        config.ssl_handshake_timeout = limits.head_s
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections.open)

    def start(self, on_failed: Callable[[], None] = lambda: None) -> None:
        """Begin to accept connections; `on_failed` is called if that fails, now or later."""
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)
        self._task = asyncio.get_running_loop().create_task(self._serve())

        def on_end(task: asyncio.Task[None]) -> None:
            if not self._stop.is_set() and not task.cancelled():
                exc = task.exception()
                reason = getattr(exc, "strerror", None) or ""
                log.event("error", "a listener failed", reason=reason, **log.exception_fields(exc))
                on_failed()

        self._task.add_done_callback(on_end)

    def reload_certificate(self, certfile: str, keyfile: str) -> None:
        """Use this certificate for connections made from now on, if the listener speaks TLS.

        The files have to match: otherwise, the context would be left with one of the two.

        Raises:
            OSError: they cannot be used.
        """
        if self._config.tls is not None:
            self._config.tls.load_cert_chain(certfile, keyfile, password=lambda: "")  # nobody is asked for a passphrase

    def stop(self) -> None:
        """Accept no further connections; requests that have arrived are answered.

        Those without a request are closed in a moment, when the last ones that the kernel has accepted had time to send
        one.
        """
        ignore_new(self._listener)
        self._connections.stopping = True
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until everything is closed, but not for a client that is slow to send or to read."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_FINISH_S)
            self._connections.cut_off()
            await asyncio.wait((self._task,), timeout=_LAST_S)
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=1)

    async def _serve(self) -> None:
        self._config.bind = [f"fd://{os.dup(self._listener.fileno())}"]
        app = cast("ASGIFramework", self._config.app)  # the same object, with the type of another library
        with self._listener:
            await serve(app, self._config, shutdown_trigger=self._emptied, mode="asgi")

    async def _emptied(self) -> None:
        """Return when the listener is told to stop and the last connections had time to send a request."""
        await self._stop.wait()
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(_ACCEPT_S)
            if not has_queued(self._listener):
                break
        if self._config.tls is not None:
            await asyncio.sleep(_HANDSHAKE_S)
        self._listener.close()
        self._connections.stop()
