"""Turns: how much is done in one iteration of the event loop.

Everything that is ready when an iteration starts runs before the loop checks anything else. Five hundred requests that
arrive at once would be one iteration of several hundred milliseconds, in which no deadline is checked, no callback is
received and no worker is read. With turns they are many short iterations, in order of arrival.

A request is one turn; a large body, to be read or sent, takes several, up to a whole iteration.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

__all__ = ["SMALL_BYTES", "Turns", "turns"]

#: Turns in one iteration; each is a few tenths of a millisecond of work.
_PER_ROUND: Final = 8
#: The size of a body that needs no separate turn; a larger one takes a turn for each part of this size.
SMALL_BYTES: Final = 65_536


class Turns:
    """Gives out at most `per_round` turns in each iteration of the loop, in order of arrival."""

    def __init__(self, per_round: int) -> None:
        self._per_round = per_round
        self._left = per_round
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._renewing = False

    async def take(self, count: int = 1) -> None:
        """Return when it is the caller's turn, which counts as `count` turns of the iteration, or as all of it."""
        count = min(count, self._per_round)
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)
        if self._left >= count and not self._waiting:
            self._left -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, count))
        await turn

    async def take_for(self, size_bytes: int) -> None:
        """Return when it is the caller's turn to work on a body of this size; at once if it is small."""
        if size_bytes > SMALL_BYTES:
            await self.take(size_bytes // SMALL_BYTES)

    def _renew(self) -> None:
        self._left = self._per_round
        while self._waiting and self._left >= self._waiting[0][1]:
            turn, count = self._waiting.popleft()
            if not turn.done():  # the waiting task may have been cancelled
                turn.set_result(None)
                self._left -= count
        self._renewing = self._left < self._per_round
        if self._renewing:
            asyncio.get_running_loop().call_soon(self._renew)


#: The turns of the front end, for all of its listeners.
turns: Final = Turns(_PER_ROUND)
