"""Open dashboard pages: a limited number, and no client can lock others out.

The admin address may ask for no key. If the first so many were served and all others refused, whoever opens enough
connections would keep everybody else out. So it is the other way round: a newcomer is always served, and of the address
that has the most, the one that has been there the longest makes room. A browser comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

__all__ = ["Watchers"]

_LIMIT: Final = 16


class Watchers:
    """Who looks, and from where."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._present: list[tuple[str, asyncio.Future[None]]] = []

    @contextlib.contextmanager
    def admitted(self, peer: str) -> Iterator[asyncio.Future[None]]:
        """Count a watcher at the address `peer`, until the block ends or the future is done."""
        if len(self._present) >= self._limit:
            self._make_room()
        leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (peer, leave)
        self._present.append(entry)
        try:
            yield leave
        finally:
            if entry in self._present:
                self._present.remove(entry)

    def _make_room(self) -> None:
        counts = Counter(peer for peer, _ in self._present)
        busiest = max(counts, key=counts.__getitem__)
        oldest = next(entry for entry in self._present if entry[0] == busiest)
        self._present.remove(oldest)
        oldest[1].set_result(None)
