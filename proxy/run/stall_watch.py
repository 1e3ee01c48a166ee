"""Reports where the event loop is blocked: nothing else in the front end could report anything then.

The event loop keeps restarting a kernel timer, which expires if the loop is blocked for seconds. The handler of its
signal runs in the main thread, in the middle of the code or regular expression that blocks the loop, and gets its
frame. A thread could not do this, because an endless regular expression does not release the GIL.
"""

from __future__ import annotations

import asyncio
import signal
import time
from types import FrameType
from typing import Final

from proxy import log
from shared.stack import stack

__all__ = ["StallWatch"]

_EVERY_S: Final = 0.5
#: The first report comes after this time, each further one after twice the time of the one before.
_LIMIT_S: Final = 2.0
#: Code that holds the GIL also blocks the thread that writes the log; this pause lets that thread write.
_WRITE_S: Final = 0.1


class StallWatch:
    """Watches the event loop from `start` to `stop`."""

    def __init__(self) -> None:
        self._wound_up = time.monotonic()
        self._cpu_s = time.process_time()
        self._timer: asyncio.TimerHandle | None = None
        self._said = False

    def start(self) -> None:
        """Start watching; needs a running event loop, in the main thread."""
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._wind_up()

    def stop(self) -> None:
        """Stop watching."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wind_up(self) -> None:
        now = time.monotonic()
        if self._said:
            self._said = False
            log.event("warning", "the event loop continues", blocked_s=round(now - self._wound_up, 1))
        self._wound_up, self._cpu_s = now, time.process_time()
        signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._wind_up)

    def _on_alarm(self, _number: int, frame: FrameType | None) -> None:
        stood_s = time.monotonic() - self._wound_up
        signal.setitimer(signal.ITIMER_REAL, stood_s)
        self._said = True
        log.event(
            "warning",
            "the event loop is blocked",
            blocked_s=round(stood_s, 1),
            cpu_s=round(
                time.process_time() - self._cpu_s, 1
            ),  # little CPU time: the process was stopped, or starved of CPU
            at=stack(frame),
        )
        time.sleep(_WRITE_S)
