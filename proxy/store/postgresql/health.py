"""Whether the database is available: the errors of the sessions, and since when nothing has succeeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from proxy import log
from proxy.store.postgresql.session import Session

__all__ = ["PATIENCE_S", "Health"]

#: For this long an unavailable database is not reported: orders are retried.
PATIENCE_S: Final = 3.0


class Health:
    """What is known of the database."""

    def __init__(self, place: str, sessions: Iterable[Session], lost: Callable[[], int]) -> None:
        """`place`: the database's name in the log; `lost`: how many records were given up so far."""
        self._place = place
        self._sessions = tuple(sessions)
        self._lost = lost
        self._reason = ""
        #: When the first of the current run of failures began, by the monotonic clock; 0: the last operation succeeded.
        self._since = 0.0
        #: The same for heartbeats alone: without a lease, other instances take over the jobs of this one.
        self._leaseless_since = 0.0
        self._announced = False
        #: Whether jobs could not be recorded since the last success. Heartbeats may succeed: a full disk may hold them.
        self.is_unwritable = False
        #: Statements that failed or were not answered.
        self.failures = 0

    def worked(self, *, beating: bool = False) -> None:
        """Note that the database can record something; `beating`: and that the lease was renewed."""
        self._since = 0.0
        self.is_unwritable = False
        if beating:
            self._leaseless_since = 0.0
        self.say()

    def failed(self, reason: str, since: float, *, writing: bool = False, beating: bool = False) -> None:
        """Note that an operation that began at `since` failed.

        `writing`: it was to record jobs; `beating`: it was to renew the lease.
        """
        self.failures += 1
        self.is_unwritable |= writing
        if beating:
            self._leaseless_since = self._leaseless_since or since
        self._reason = reason
        self._since = self._since or since
        self.say()

    @property
    def is_well(self) -> bool:
        """Whether the last operation succeeded."""
        return not self._since

    @property
    def trouble(self) -> str:
        """A sentence that says that nothing can be recorded; empty if all is well, or while it may soon be again.

        Clients read it, so it names no address; the log says more.
        """
        now = time.monotonic()
        oldest = min((session.busy_since for session in self._sessions if session.busy_since), default=now)
        since = min(self._since or now, self._leaseless_since or now, oldest)
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
