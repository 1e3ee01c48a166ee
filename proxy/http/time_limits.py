"""How long a client may take: the limits, and the code that enforces them.

A transfer that is fast enough may take any time; one that stalls is cut off.

The server enforces the time limits, not the application: if a body stalls, `receive` raises RequestError
(`request-timeout`); if an answer is not read, `send` raises SlowClientError. The application needs no clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from proxy.http.asgi import SlowClientError
from proxy.http.connections import reset, socket_of
from shared.errors import AdmissionError, Code, RequestError

__all__ = ["LazyTimer", "Limits", "Pace", "body_cut_off", "drained", "sent", "waited"]

#: How often the progress of an unread answer is checked.
_LOOK_S: Final = 0.5
#: A timer that fires this late was delayed, as was everything else in this process: it was stopped or busy.
_LATE_S: Final = 0.5
#: While the kernel has more than this, the transport may have some, too; it has none while the kernel takes more.
_FEW_BYTES: Final = 16_384
_POLL_S: Final = 0.1
#: `tcpi_bytes_acked` in the kernel's `struct tcp_info`.
_ACKNOWLEDGED: Final = struct.Struct("=120xQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for the clients of a connection."""

    #: Seconds for which a connection without a request stays open after an answer.
    keep_alive_s: float = 100.0
    #: Seconds for the first head, from the connection's beginning, and for each later one, from its first byte; for a
    #: TLS handshake; and for which a client that has its last answer may neither send nor close.
    head_s: float = 5.0
    #: Seconds for which the rest of a request may arrive, and is discarded, after its answer.
    linger_s: float = 30.0
    #: Seconds for which a body or an answer may make no progress.
    stall_s: float = 9.0
    #: The minimum rate of a body or an answer. A slower one is cut off once it is `stall_s` behind.
    least_bytes_per_s: float = 1024.0
    #: Bytes of a head: the request line and the headers.
    head_bytes: int = 16_384
    #: The most headers of a request.
    headers: int = 100


class Pace:
    """Whether bytes move fast enough.

    A transfer has a budget of `Limits.stall_s`. Time that passes is taken from it, each transferred byte adds to it, up
    to the initial value. So a transfer ends when it stalls, or when it is too slow for too long, however large it is
    and however fast it was before.
    """

    __slots__ = ("_limits", "left_s")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Seconds until the transfer is cut off if nothing moves. Zero or less: now.
        self.left_s = limits.stall_s

    def step(self, passed_s: float, moved_bytes: int) -> None:
        """Account for the time that passed and the bytes that moved since the last step."""
        earned_s = moved_bytes / self._limits.least_bytes_per_s
        self.left_s = min(self.left_s - passed_s + earned_s, self._limits.stall_s)


async def waited(wait: Callable[[], Awaitable[object]], limit_s: float) -> float:
    """Wait; return for how many seconds, without those in which this process was stopped.

    Raises:
        TimeoutError: it took longer than `limit_s`.
    """
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(limit_s):
                await wait()
            return loop.time() - began
        except TimeoutError:
            if loop.time() - began < limit_s + _LATE_S:
                raise
        limit_s = _LATE_S  # read first what arrived in the meantime


async def drained(transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[object]], limits: Limits) -> None:
    """Return when `drain` does, as long as the client reads what `transport` has buffered fast enough.

    Raises:
        SlowClientError: it is too slow; the connection is closed, because a partial answer must not look complete.
    """
    pace = Pace(limits)
    unsent, received = transport.get_write_buffer_size(), _received_bytes(transport)
    while True:
        with contextlib.suppress(TimeoutError):
            await waited(drain, _LOOK_S)
            return
        # The kernel, and TLS, take a large piece of the buffer at once, and then none until most of it was received.
        unsent_before, unsent = unsent, transport.get_write_buffer_size()
        received_before, received = received, _received_bytes(transport)
        pace.step(_LOOK_S, max(unsent_before - unsent, received - received_before))
        if pace.left_s <= 0:
            if unsent:
                reset(transport)
            else:
                transport.abort()
            raise SlowClientError("the client reads too slowly")


async def sent(transport: asyncio.WriteTransport, limits: Limits) -> None:
    """Return when the kernel has all that was written, as long as the client reads fast enough.

    What it does not have is lost if the connection is aborted, and TLS does that a while after it was closed.

    Raises:
        SlowClientError: it is too slow; the connection is closed.
    """

    async def drain() -> None:
        while not transport.is_closing() and _queued_bytes(transport) > _FEW_BYTES:  # noqa: ASYNC110 - nobody notifies
            await asyncio.sleep(_POLL_S)

    await drained(transport, drain, limits)


def _queued_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the kernel has that the peer has not acknowledged."""
    queued = array("i", [0])
    with contextlib.suppress(OSError, ValueError):
        fcntl.ioctl(socket_of(transport).fileno(), termios.TIOCOUTQ, queued)
    return queued[0]


def _received_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the peer's kernel has acknowledged on a connection; 0 if it is closed."""
    try:
        info = socket_of(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
        received: int = _ACKNOWLEDGED.unpack(info)[0]
    except (OSError, ValueError, struct.error):  # struct.error: a kernel that does not know it
        return 0
    return received


class LazyTimer:
    """Calls back when the last set time is over: for limits that change with every request and rarely expire.

    Setting a later time is only an assignment: the loop's timer fires early and is then renewed.
    """

    __slots__ = ("_fires_at", "_handle", "_loop", "_on_expiry", "until")

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        #: When it calls back, on the loop's clock; None: never.
        self.until: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = 0.0

    def set(self, seconds: float) -> None:
        """Call back in `seconds`, and no longer at the time set before."""
        until = self.until = self._loop.time() + seconds
        if self._handle is not None and until < self._fires_at:
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._arm(until)

    def clear(self) -> None:
        """Do not call back."""
        self.until = None

    def close(self) -> None:
        """Cancel for good, and drop the reference to the callback, so that no reference cycle keeps its owner."""
        self.until = None
        self._on_expiry = _nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, at: float) -> None:
        self._fires_at = at
        self._handle = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self.until is None:
            return
        late_s = self._loop.time() - self.until
        if late_s < 0:
            self._arm(self.until)
        elif late_s > _LATE_S:  # read first what arrived in the meantime
            self.set(_LATE_S)
        else:
            self.until = None
            self._on_expiry()


def _nothing() -> None:
    pass


def body_cut_off(
    received_bytes: int, announced_bytes: int | None, *, closing: bool = False
) -> RequestError | AdmissionError:
    """Return the error for a request whose body came too slowly or, if `closing`, is incomplete at the end."""
    of_all = "" if announced_bytes is None else f" of {announced_bytes}"
    cut_off = f"it was cut off after {received_bytes}{of_all} bytes"
    if closing:
        return AdmissionError(Code.SHUTTING_DOWN, f"the proxy stopped before the body was complete: {cut_off}")
    return RequestError(Code.REQUEST_TIMEOUT, f"the body came too slowly: {cut_off}")
