"""Open dashboard pages: a limited number, and no client can lock others out.

The admin address may need no key. If only the first pages up to the limit were served, anybody who opens enough
connections would lock out all others. So a new page is always served; if there are too many, the oldest page of the
address with the most pages is disconnected. A browser reconnects by itself.
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
    """The open pages, by the address of their client."""

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
