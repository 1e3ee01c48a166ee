"""Turns: how many connections may do something in one round of the event loop.

Whatever is ready when a round begins runs before the loop looks at anything else. Five hundred requests that arrive at
once would be one round of some hundred milliseconds, in which no deadline is kept, no callback is heard and no worker
is read. With turns they are many short rounds, in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Hands out at most `per_round` turns in each round of the loop, first come, first served."""

    def __init__(self, per_round: int) -> None:
        self._per_round = per_round
        self._left = per_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._renewing = False

    async def take(self) -> None:
        """Return when it is the caller's turn."""
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _renew(self) -> None:
        self._left = self._per_round
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # whoever waited may have been cancelled
                turn.set_result(None)
                self._left -= 1
        self._renewing = self._left < self._per_round
        if self._renewing:
            asyncio.get_running_loop().call_soon(self._renew)
