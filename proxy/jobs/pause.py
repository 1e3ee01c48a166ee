"""Whether operators have paused the intake of new jobs: a state of this process, which a restart ends.

Jobs in flight go on. Callbacks, status requests, and requests with the key of a known job are answered.
"""

from __future__ import annotations

import time
from typing import Any

from proxy import log

__all__ = ["Pause"]


class Pause:
    """A pause, or none."""

    def __init__(self) -> None:
        #: When it began, in Unix seconds; None: it is not paused.
        self.since: float | None = None
        #: Who paused it, and why; for operators, never for clients.
        self.by = ""
        self.reason = ""

    def begin(self, by: str, reason: str) -> None:
        """Accept no new jobs from now on; if paused already, only update who paused it and why."""
        self.since = self.since or time.time()
        self.by, self.reason = by, reason
        log.event("warning", "the intake is paused: new jobs are refused", by=by or None, reason=reason or None)

    def end(self, by: str) -> None:
        """Accept new jobs again."""
        if self.since is not None:
            lasted_s = round(time.time() - self.since, 1)
            log.event("info", "the intake is resumed: new jobs are accepted", by=by or None, after_s=lasted_s)
        self.since, self.by, self.reason = None, "", ""

    def shown(self) -> dict[str, Any]:
        """Return what operators see of it."""
        return {"paused": self.since is not None, "since": self.since, "by": self.by, "reason": self.reason}
