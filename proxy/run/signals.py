"""The signals of the front end: SIGTERM, SIGINT, SIGQUIT and SIGPWR stop it, SIGHUP reloads what can be reloaded.

SIGUSR1 and SIGUSR2 mean nothing here, and would end the process without a word; they are only logged. The first signal
that stops it is only noted, for the event loop to act upon; the second ends the process whatever the loop does. These
are Python's own handlers and not the loop's: Python runs them between two instructions of the main thread, and within a
regular expression that does not end, when the loop would not get to them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from proxy import log
from shared.stack import stack

__all__ = ["Signals"]

#: What a shell reports for a process that a signal ended, minus the number of the signal.
_BY_SIGNAL: Final = 128
#: The last is what LXC sends.
_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR)
_IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Passes the front end's signals to their handlers in the event loop."""

    def __init__(
        self, on_stop: Callable[[signal.Signals], None], on_reload: Callable[[], None], end: Callable[[int], NoReturn]
    ) -> None:
        """`end` ends the process at once with an exit code."""
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._end = end
        self._stopping = False

    def watch(self) -> None:
        """Start receiving the signals; needs a running event loop."""
        loop = asyncio.get_running_loop()

        def stop(number: int, frame: FrameType | None) -> None:
            name = signal.Signals(number)
            if self._stopping:
                log.event("warning", "stopped at once by a second signal", signal=name.name, at=stack(frame))
                self._end(_BY_SIGNAL + number)
            self._stopping = True
            loop.call_soon_threadsafe(self._on_stop, name)

        def ignore(number: int, _frame: FrameType | None) -> None:
            log.event("warning", "an unsupported signal is ignored", signal=signal.Signals(number).name)

        for number in _STOP:
            signal.signal(number, stop)
        for number in _IGNORED:
            signal.signal(number, ignore)
        # Whoever started it may have had them blocked, and a blocked signal is not heard.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP, *_IGNORED, signal.SIGHUP})
        # A terminal also sends it when it is closed: no job should end with a window.
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._on_reload))
