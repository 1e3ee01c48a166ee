"""Decides when a thread that waits for a disk has been silent for so long that nobody should keep waiting for it."""

from __future__ import annotations

from typing import Final

__all__ = ["LIMIT_S", "Silence"]

#: Anything that takes this long is not just slow.
LIMIT_S: Final = 1.0
#: Longer than the event loop needs to receive the thread's reports, in case the process itself was stopped.
_CONFIRM_S: Final = 0.1
#: How often to check while nothing is in progress.
_IDLE_S: Final = 0.5


class Silence:
    """Says whether the thread is silent. Has no clock: the caller passes the time."""

    def __init__(self) -> None:
        #: Whether it was silent at the last check.
        self.now = False
        self._suspected: float | None = None

    def look(self, now: float, since: float | None) -> float:
        """Check at the time `now`; `since` is when the current part of a batch began, if there is one.

        Returns after how many seconds to check again.
        """
        if since is None or now - since < LIMIT_S:
            self.now = False
            self._suspected = None
            return _IDLE_S if since is None else LIMIT_S - (now - since)
        # A process that was stopped, or starved, wakes up to an old time; the thread's reports are then still on their
        # way.
        self.now = self.now or since == self._suspected
        self._suspected = since
        return _CONFIRM_S
