"""The lag of the event loop: the one figure that says whether the front end is overloaded.

A timer asks to be called every half second and measures how late it is called. Two wake-ups per second cost an idle
proxy nothing measurable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["LoopLag"]

_EVERY_S: Final = 0.5
_KEPT: Final = 120


class LoopLag:
    """Measures the event loop's lag from `start` to `stop`."""

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        """`on_lag` gets every lag, in seconds."""
        self._on_lag = on_lag
        self._recent: deque[float] = deque(maxlen=_KEPT)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start measuring; needs a running event loop."""
        self._due = asyncio.get_running_loop().time() + _EVERY_S
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def worst_s(self) -> float:
        """The longest lag of the last minute, in seconds."""
        return max(self._recent, default=0.0)

    @property
    def last_s(self) -> float:
        """The latest lag, in seconds."""
        return self._recent[-1] if self._recent else 0.0

    def _tick(self) -> None:
        lag_s = max(0.0, asyncio.get_running_loop().time() - self._due)
        self._recent.append(lag_s)
        self._on_lag(lag_s)
        self.start()
