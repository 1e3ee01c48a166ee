"""Log lines for refused requests: client, request and reason, at a limited rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy import log

if TYPE_CHECKING:
    from proxy.http.problems import Problem

__all__ = ["Refusals"]

#: The most lines within one second; further ones are only counted.
_LINES: Final = 20


class Refusals:
    """Logs refused requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._unsaid = 0

    def note(self, problem: Problem, *, method: str, route: str, peer: str) -> None:
        """Log a refused request, or count it; `route` is the part of its path that may be logged."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
            if self._unsaid:
                log.event("info", "more requests were refused than are listed", unlisted=self._unsaid)
                self._unsaid = 0
        if self._lines == _LINES:
            self._unsaid += 1
            return
        self._lines += 1
        log.event(
            "info",
            "request refused",
            code=str(problem.code),
            status=problem.status,
            detail=problem.detail,
            method=method,
            route=route,
            peer=peer,
        )
