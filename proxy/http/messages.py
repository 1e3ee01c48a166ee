"""The way of a request's messages from its connection to the application."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveEvent

__all__ = ["Messages"]

#: Messages that may wait for the application; each has a piece of a body, of up to 64 KiB.
_MAX_WAITING: Final = 10


class Messages:
    """A bounded queue whose reader may leave at any time: nobody waits for one that has left."""

    def __init__(self) -> None:
        self._waiting: deque[ASGIReceiveEvent] = deque()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Add a message, and wait while there are many; the last one, that the client is gone, waits for nobody."""
        if self._over:
            return
        self._waiting.append(message)
        self._some.set()
        if message["type"] == "http.disconnect":
            self._over = True
            self._room.set()
        elif len(self._waiting) >= _MAX_WAITING:
            self._room.clear()
        await self._room.wait()

    async def get(self) -> ASGIReceiveEvent:
        """Return the next message; again and again the last one."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        if self._over and len(self._waiting) == 1:
            return self._waiting[0]
        self._room.set()
        return self._waiting.popleft()

    def leave(self) -> None:
        """Take nothing any more: the application has ended."""
        self._over = True
        self._waiting.clear()
        self._room.set()
