"""The configuration of a listener."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from hypercorn.config import Config

from proxy.http import problems
from proxy.http.handshakes import report_failures
from proxy.http.listening import BACKLOG
from shared.errors import Code

if TYPE_CHECKING:
    from ssl import SSLContext

    from starlette.types import ASGIApp

    from proxy.http.connections import Connections

__all__ = ["ServerConfig"]

#: Discards Hypercorn's messages, which may contain tracebacks and paths with tokens.
_DISCARDED: Final = logging.getLogger("proxy.hypercorn")
_DISCARDED.propagate = False
_DISCARDED.addHandler(logging.NullHandler())
#: Hypercorn itself never aborts answers: a listener may be told to stop long before its jobs have ended.
_NEVER_S: Final = 1e7


class ServerConfig(Config):
    """The configuration of a listener, which Hypercorn passes to each of its connections."""

    # Only HTTP/1.1 is offered and supported.
    alpn_protocols = ["http/1.1"]  # noqa: RUF012 - a list, as in Hypercorn
    include_server_header = False
    accesslog = None
    errorlog = _DISCARDED
    backlog = BACKLOG
    graceful_timeout = _NEVER_S
    app: ASGIApp
    #: Whether proxy/http/fast/ serves plain requests.
    fast: bool
    connections: Connections
    #: The TLS context of new connections, as long as the listener serves.
    tls: SSLContext | None = None

    def create_ssl_context(self) -> SSLContext | None:
        """Return the context, and keep it, because its certificate may be replaced."""
        self.tls = super().create_ssl_context()
        if self.tls is not None:
            report_failures(self.tls, self._handshake_failed)
        return self.tls

    def _handshake_failed(self, reason: str) -> None:
        problem = problems.unread(Code.MALFORMED_REQUEST, f"the TLS handshake failed: {reason}")
        self.connections.refused(problem, None)
