"""The open connections of a listener, on either HTTP path, and their limit."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import resource
import termios
import time
from array import array
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy import log
from proxy.http.refusals import Refusals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from proxy.http.problems import Problem
    from proxy.http.time_limits import Limits

__all__ = ["Connection", "Connections", "OnRefused", "Room", "has_unread"]

#: Connections beyond which idle ones are closed even if there are descriptors for more: each takes some 10 kB.
_MANY: Final = 10_000
#: Of the idle connections, how many are closed at once: to look for them takes a millisecond for each few thousand.
_PART: Final = 16
#: Of the connections of the last second, the newest so many are about to bring their requests, as far as can be told.
_ARRIVING: Final = 8
_YOUNG_S: Final = 1.0
#: How often it is logged that connections are being closed.
_TELL_S: Final = 60.0


class OnRefused(Protocol):
    """Is notified of a request that the application has not seen."""

    def __call__(self, problem: Problem, line: bytes, /) -> None:
        """`line`: as much as came of its first line, however wrong; nothing, where the application has seen that."""


class Connection(Protocol):
    """An open connection."""

    @property
    def idle_until(self) -> float | None:
        """When it will be closed for want of a request, on the event loop's clock; None: it has one, or is closing."""

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come that are not read yet."""

    def stop(self) -> None:
        """Close at once if there is no request, else after the answer."""


class Connections:
    """The connections of one listener."""

    def __init__(self, limits: Limits, room: Room, on_refused: OnRefused | None = None) -> None:
        """`on_refused` hears of each request that is refused before the application sees it, and its first line."""
        self.limits = limits
        self.room = room
        self._on_refused = on_refused
        self._refusals = Refusals()
        #: Whether the answers to come are the last on their connections.
        self.stopping = False
        self.open: set[Connection] = set()
        room.listeners.append(self)

    def stop(self) -> None:
        """Close the connections that have no request; the others close after their answer."""
        self.stopping = True
        for connection in tuple(self.open):
            connection.stop()

    def refused(self, problem: Problem, client: Sequence[Any] | None, beginning: bytes = b"") -> None:
        """Let operators know of a request that the application has not seen.

        `client` is its address, and `beginning` what came of it; nothing, where the application has seen that.
        """
        self._refusals.note(problem, method="", route="", peer=client[0] if client else "")
        if self._on_refused is not None:
            self._on_refused(problem, beginning.partition(b"\n")[0])


class Room:
    """Keeps descriptors and memory free, by closing idle connections of any listener.

    There may be connections for half of the descriptors; the others are for workers and files. For each further one,
    idle ones are closed: those that would be closed the soonest anyway. These are the ones that never sent a request,
    then those that have been idle for the longest. The few that were opened last stay.
    None is closed whose next request has come and is not read yet: there may be many to accept and to read at once.
    """

    def __init__(self, most: int | None = None) -> None:
        """`most` is how many connections there may be; by default what the limit of descriptors allows."""
        self._given = most
        self._tell_from = 0.0
        #: The connections of each listener.
        self.listeners: list[Connections] = []

    @property
    def _head_s(self) -> float:
        """For how long a new connection may be silent; the same for all listeners."""
        return self.listeners[0].limits.head_s

    def make(self) -> None:
        """Make room for a connection that was accepted."""
        open_now = sum(len(listener.open) for listener in self.listeners)
        if open_now < self._most():
            return
        idle = [
            (until, id(connection), connection)
            for listener in self.listeners
            for connection in listener.open
            if (until := connection.idle_until) is not None
        ]
        now = time.monotonic()
        arriving = heapq.nlargest(_ARRIVING, (one for one in idle if now - _YOUNG_S < one[0] - self._head_s <= now))
        if now >= self._tell_from:
            self._tell_from = now + _TELL_S
            log.event("warning", "closing idle connections to make room for others", open=open_now, idle=len(idle))
        others = [one for one in idle if one not in arriving]
        for *_, connection in heapq.nsmallest(max(1, len(idle) // _PART), others):
            if not connection.has_unread:
                connection.stop()

    def _most(self) -> int:
        if self._given is not None:
            return self._given
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return _MANY if limit == resource.RLIM_INFINITY else min(_MANY, limit // 2)


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Return whether bytes have come for a connection that this process has not read yet."""
    unread = array("i", [0])
    with contextlib.suppress(OSError, ValueError):  # it is closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
    return unread[0] > 0
