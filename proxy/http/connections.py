"""The open connections of a listener, whoever serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.http.pace import Limits

__all__ = ["Connection", "Connections"]


class Connection(Protocol):
    """An open connection."""

    def stop(self) -> None:
        """Close at once if there is no request, else after the answer."""


class Connections:
    """The connections of one listener."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: Whether the answers to come are the last on their connections.
        self.stopping = False
        self.open: set[Connection] = set()

    def stop(self) -> None:
        """Close the connections that have no request; the others close after their answer."""
        self.stopping = True
        for connection in tuple(self.open):
            connection.stop()
