"""The signals of the front end: SIGTERM, SIGINT, SIGQUIT and SIGPWR stop it, SIGHUP reloads certificates and keys.

SIGUSR1 and SIGUSR2 have no meaning here, and their default would end the process silently; they are only logged. The
first stop signal is passed to the event loop; the second ends the process even if the loop is blocked. One that comes
with the first is no second one: `timeout`, and other programs that pass on signals, often send each twice. These are
Python's own handlers, not the loop's: Python runs them between two instructions of the main thread, and even within an
endless regular expression, when the loop would not run them.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from proxy import log
from shared.stack import stack

__all__ = ["Signals"]

#: A shell reports this plus the number of the signal for a process that a signal ended.
_BY_SIGNAL: Final = 128
#: The last is what LXC sends.
_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR)
_IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)
#: Within this time, stop signals are one and the same.
_SAME_S: Final = 0.25


class Signals:
    """Passes the front end's signals to their handlers in the event loop."""

    def __init__(
        self,
        on_stop: Callable[[signal.Signals], None],
        on_reload: Callable[[], None],
        end: Callable[[int], NoReturn],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`end` ends the process at once with an exit code."""
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._end = end
        self._clock = clock
        self._stopping_since: float | None = None
        self._ending = False

    def watch(self) -> None:
        """Start receiving the signals; needs a running event loop."""
        loop = asyncio.get_running_loop()

        def stop(number: int, frame: FrameType | None) -> None:
            name = signal.Signals(number)
            now = self._clock()
            if self._stopping_since is None:
                self._stopping_since = now
                loop.call_soon_threadsafe(self._on_stop, name)
            elif not self._ending and now - self._stopping_since > _SAME_S:
                self._ending = True  # this handler may be interrupted by a third signal
                log.event("warning", "stopped at once by a second signal", signal=name.name, at=stack(frame))
                self._end(_BY_SIGNAL + number)

        def ignore(number: int, _frame: FrameType | None) -> None:
            log.event("warning", "an unsupported signal is ignored", signal=signal.Signals(number).name)

        for number in _STOP:
            signal.signal(number, stop)
        for number in _IGNORED:
            signal.signal(number, ignore)
        # A terminal also sends it when it is closed; that must not end any job.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._on_reload))
