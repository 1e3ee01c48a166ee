"""The configuration of a listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercorn.config import Config

if TYPE_CHECKING:
    from proxy.http.connections import Connections

__all__ = ["ServerConfig"]


class ServerConfig(Config):
    """The configuration of a listener, which Hypercorn passes to each of its connections."""

    # Only HTTP/1.1 is offered and supported.
    alpn_protocols = ["http/1.1"]  # noqa: RUF012 - a list, as in Hypercorn
    include_server_header = False
    accesslog = None
    connections: Connections
