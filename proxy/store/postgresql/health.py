"""Whether the database is available: the errors of the sessions, and since when nothing has succeeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from proxy import log
from proxy.store.postgresql.session import Session

__all__ = ["PATIENCE_S", "Health"]

#: For so long a database that is away is nobody's business: what was ordered is tried again.
PATIENCE_S: Final = 3.0


class Health:
    """What is known of the database."""

    def __init__(self, place: str, sessions: Iterable[Session], lost: Callable[[], int]) -> None:
        """`place`: how the log calls the database; `lost`: how many records were given up so far."""
        self._place = place
        self._sessions = tuple(sessions)
        self._lost = lost
        self._reason = ""
        #: When the first of a row of failures began, by the monotonic clock; 0: the last thing went well.
        self._since = 0.0
        self._announced = False
        #: Statements that the database could not carry out, or did not answer.
        self.failures = 0

    def worked(self) -> None:
        """Note that something was recorded, or would have been."""
        self._since = 0.0
        self.say()

    def failed(self, reason: str, since: float) -> None:
        """Note that something that began at the instant `since` could not be done."""
        self.failures += 1
        self._reason = reason
        self._since = self._since or since
        self.say()

    @property
    def is_well(self) -> bool:
        """Whether the last thing that was asked went well."""
        return not self._since

    @property
    def trouble(self) -> str:
        """That nothing can be recorded, as a sentence; empty while that is not so, or may soon be over.

        Clients read it, so that it names no address; the log says more.
        """
        now = time.monotonic()
        oldest = min((session.busy_since for session in self._sessions if session.busy_since), default=now)
        since = min(self._since or now, oldest)
        return "" if now - since < PATIENCE_S else "the database cannot be used for now"

    def say(self) -> None:
        """Log that trouble begins, or that it is over."""
        if bool(self.trouble) is self._announced:
            return
        self._announced = not self._announced
        if self._announced:
            reason = self._reason or "it does not answer"
            log.event(
                "error", "new jobs are refused until the database can be used", database=self._place, reason=reason
            )
        else:
            log.event("info", "the database can be used again", database=self._place, jobs_not_recorded=self._lost())
