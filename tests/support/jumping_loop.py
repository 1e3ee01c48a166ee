"""An event loop on which waiting takes no time: when nothing is ready, its clock jumps to the next timer.

So a test of a limit of seconds takes no time, a busy machine cannot make it fail, and code that waits forever is
noticed at once. `time.monotonic` and `time.time` follow the loop's clock as long as the loop is open. Only for code
that does not wait for sockets, threads or processes.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

__all__ = ["JumpingLoop", "jumping_loops", "nothing_moves", "time_passes"]

#: Shorter than anything that a test waits for.
_MOMENT_S: Final = 1e-6


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self._now_s = time.monotonic()
        self._wall_ahead_s = time.time() - self._now_s
        self._real: tuple[Callable[[], float], Callable[[], float]] | None = time.monotonic, time.time
        time.monotonic = self.time
        time.time = lambda: self._now_s + self._wall_ahead_s
        super().__init__(_JumpingSelector(self.jump))

    def time(self) -> float:
        """Return the time, which only passes by jumps of this loop."""
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Advance the clock by this time."""
        self._now_s += seconds

    def set_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back; the monotonic clock does not change."""
        self._wall_ahead_s += seconds

    def close(self) -> None:
        """Close the loop and restore the machine's clocks."""
        super().close()
        if self._real is not None:
            time.monotonic, time.time = self._real
            self._real = None


class _JumpingSelector(selectors.DefaultSelector):
    """Lets time pass instead of waiting."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if that is nothing, jump instead of waiting."""
        if timeout == 0:  # something is ready already; sockets, of which there are none, may wait
            return []
        ready: list[Any] = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits for something else, and no timer runs: this would never end")
        if not ready and timeout:
            self._jump(timeout)
        return ready


def jumping_loops(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test of a folder on such a loop: `pytest_asyncio_loop_factories = jumping_loops` in its conftest.py."""
    return {"jumping": JumpingLoop}


async def nothing_moves() -> None:
    """Return when nothing more can happen without the passing of time."""
    await asyncio.sleep(_MOMENT_S)


async def time_passes(seconds: float) -> None:
    """Let this much time pass, and let everything happen that is due by then."""
    await asyncio.sleep(seconds)
    await nothing_moves()
