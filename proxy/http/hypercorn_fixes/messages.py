"""A request's messages on their way from its connection to the application (ASGI 3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.http.asgi import content_length
from proxy.http.time_limits import Pace, body_cut_off, waited

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveEvent
    from starlette.types import Scope

    from proxy.http.connections import Connections

__all__ = ["Messages"]

#: Messages that may be queued for the application; each has up to 64 KiB of a body.
_MAX_WAITING: Final = 10


class Messages:
    """A bounded queue whose reader may leave at any time; after that, `put` does not wait."""

    def __init__(self, scope: Scope, connections: Connections) -> None:
        self._scope = scope
        self._connections = connections
        self._waiting: deque[ASGIReceiveEvent] = deque()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._pace = Pace(connections.limits)
        self._received_bytes = 0
        #: Whether the whole body was put here.
        self._complete = False
        #: Whether nothing more will be put here, or nobody wants it.
        self._over = False

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Add a message, and wait while there are many; the last one, that the client is gone, never waits."""
        if self._over:
            return
        self._waiting.append(message)
        self._some.set()
        if message["type"] == "http.request":
            self._received_bytes += len(message["body"])
            self._complete = not message["more_body"]
            if len(self._waiting) >= _MAX_WAITING:
                self._room.clear()
        else:
            self._over = True
            self._room.set()
        await self._room.wait()

    async def get(self) -> ASGIReceiveEvent:
        """Return the next message; the last one again and again.

        Raises:
            RequestError: the body comes too slowly.
            AdmissionError: it is incomplete when the listener closes.
        """
        while not self._waiting:
            self._some.clear()
            if self._complete:
                await self._some.wait()
            else:
                await self._wait_for_body()
        if self._over and len(self._waiting) == 1:
            return self._waiting[0]
        self._room.set()
        return self._waiting.popleft()

    async def _wait_for_body(self) -> None:
        before = self._received_bytes
        connections = self._connections
        passed_s = 0.0
        with contextlib.suppress(TimeoutError):
            if not connections.closing:
                passed_s = await waited(self._some.wait, self._pace.left_s)
        if not self._waiting:
            announced = content_length(self._scope)
            raise body_cut_off(before, announced, closing=connections.closing)
        self._pace.step(passed_s, self._received_bytes - before)

    def cut_off(self) -> None:
        """Wake the application if it waits for the rest of a body."""
        self._some.set()

    def leave(self) -> None:
        """Accept no more messages: the application has ended."""
        self._over = True
        self._waiting.clear()
        self._room.set()
