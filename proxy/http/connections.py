"""The open connections of a listener, on either HTTP path, and their limit."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import os
import resource
import socket
import struct
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

__all__ = [
    "RESET_LOOK_S",
    "Connection",
    "Connections",
    "OnRefused",
    "Room",
    "has_unread",
    "is_reset",
    "reset",
    "socket_of",
]

#: The number of connections beyond which idle ones are closed even with free descriptors: each takes about 10 kB.
_MANY: Final = 10_000
#: How many idle connections are closed at once: finding them takes a millisecond for each few thousand.
_PART: Final = 16
#: This many of the last second's connections, the newest, are presumably about to send their requests.
_ARRIVING: Final = 8
_YOUNG_S: Final = 1.0
#: How often the log says that connections are being closed.
_TELL_S: Final = 60.0
#: How often to look for a reset that uvloop does not report: of a connection that it does not read, or that its client
#: has half closed.
RESET_LOOK_S: Final = 5.0
#: `struct linger`, with which closing is a reset.
_RESET: Final = struct.pack("ii", 1, 0)
#: How long a connection that begins after the others were closed may take to send a request.
_LATE_S: Final = 0.5
#: The kernel's state of a connection that was reset, in `tcpi_state`.
_TCP_CLOSE: Final = 7


class OnRefused(Protocol):
    """Is notified of a request that the application has not seen."""

    def __call__(self, problem: Problem, line: bytes, /) -> None:
        """`line`: the received part of its first line, even if invalid; empty if the application has seen it."""


class Connection(Protocol):
    """An open connection."""

    @property
    def idle_until(self) -> float | None:
        """When it will be closed without a request, on the event loop's clock; None: it has one, or is closing."""

    @property
    def has_unread(self) -> bool:
        """Whether bytes have arrived that are not read yet."""

    def stop(self) -> None:
        """Close at once if there is no request, otherwise after the answer."""

    def cut_off(self) -> None:
        """Look at `Connections.closing`, if the rest of a body is being waited for."""


class Connections:
    """The connections of one listener."""

    def __init__(self, limits: Limits, room: Room, on_refused: OnRefused | None = None) -> None:
        """`on_refused` gets each request that is refused before the application sees it, with its first line."""
        self.limits = limits
        self.room = room
        self._on_refused = on_refused
        self._refusals = Refusals()
        #: Whether further answers are the last on their connections.
        self.stopping = False
        #: Whether connections without a request are closed.
        self.stopped = False
        #: Whether incomplete bodies are no longer waited for.
        self.closing = False
        self.open: set[Connection] = set()
        room.listeners.append(self)

    @property
    def first_head_s(self) -> float:
        """How long a new connection may take to send its first head."""
        return min(self.limits.head_s, _LATE_S) if self.stopped else self.limits.head_s

    def stop(self) -> None:
        """Close the connections without a request; the others close after their answer."""
        self.stopping = self.stopped = True
        for connection in tuple(self.open):
            connection.stop()

    def cut_off(self) -> None:
        """Refuse the requests whose bodies are incomplete."""
        self.closing = True
        for connection in tuple(self.open):
            connection.cut_off()

    def refused(self, problem: Problem, client: Sequence[Any] | None, beginning: bytes = b"") -> None:
        """Report a request that the application has not seen to the operators.

        `client` is its address, and `beginning` the received part of it; empty if the application has seen the request.
        """
        self._refusals.note(problem, method="", route="", peer=client[0] if client else "")
        if self._on_refused is not None:
            self._on_refused(problem, beginning.partition(b"\n")[0])


class Room:
    """Keeps descriptors and memory free by closing idle connections of any listener.

    Connections may take half of the descriptors; the others are for workers and files. For each further connection,
    idle ones are closed, in the order in which they would be closed anyway: first those that never sent a request, then
    those that have been idle for longest. The few newest ones stay open. A connection whose next request has arrived
    unread is not closed: many may be waiting to be accepted and read.
    """

    def __init__(self, most: int | None = None) -> None:
        """`most` is the maximum number of connections; the default depends on the limit of descriptors."""
        self._given = most
        self._tell_from = 0.0
        #: The connections of each listener.
        self.listeners: list[Connections] = []

    @property
    def _head_s(self) -> float:
        """How long a new connection may be silent; the same for all listeners."""
        return self.listeners[0].limits.head_s

    def make(self) -> None:
        """Make room for an accepted connection."""
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


def socket_of(transport: asyncio.BaseTransport) -> socket.socket:
    """Return a connection's socket. Raises OSError if it is closed: TLS has none then."""
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return found


def reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection at once, so that a partial answer cannot be mistaken for a complete one.

    Without a length, as HTTP/1.0 has it for an answer in pieces, a mere close is the answer's regular end.
    """
    if not transport.is_closing():
        with contextlib.suppress(OSError):
            socket_of(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def is_reset(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer of an open connection has answered with a reset, or no more at all."""
    try:
        return socket_of(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except (OSError, ValueError):  # it is closed
        return False


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Return whether bytes have arrived on a connection that this process has not read yet."""
    unread = array("i", [0])
    with contextlib.suppress(OSError, ValueError):  # it is closed
        fcntl.ioctl(socket_of(transport).fileno(), termios.FIONREAD, unread)
    return unread[0] > 0
