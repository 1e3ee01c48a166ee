"""A timer for a connection's time limits, which change with every request and hardly ever expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["LazyTimer"]

#: A timer that fires so late was held up, and so was whatever it guards: the process was stopped, or busy.
_LATE_S: Final = 0.5


class LazyTimer:
    """Calls back once the time that was last set is over.

    To set a later time is an assignment: the loop's timer is left to fire early, and is then made anew.
    """

    __slots__ = ("_fires_at", "_handle", "_loop", "_on_expiry", "until")

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        #: When it calls back, on the loop's clock; None: not at all.
        self.until: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = 0.0

    def set(self, seconds: float) -> None:
        """Call back `seconds` from now, and not at the time set before."""
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
        """Cancel for good, and drop the reference to the callback, so that its owner is freed without the collector."""
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
        elif late_s > _LATE_S:  # what came meanwhile is read first
            self.set(_LATE_S)
        else:
            self.until = None
            self._on_expiry()


def _nothing() -> None:
    pass
