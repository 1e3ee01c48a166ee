"""Canaries: a plain job every 100 ms beside whatever a test does, a few at a time; each is to get 200.

One that met its deadline because nobody had a processor says nothing about the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

from tests.chaos.support.reply import Reply
from tests.support.waiting import eventually

__all__ = ["Canaries"]

_EVERY_S: Final = 0.1
#: On a machine that is slow, more of them would be a load of their own.
_AT_ONCE: Final = 3


class Canaries:
    """The canaries of one test."""

    def __init__(
        self,
        post: Callable[[dict[str, object]], Awaitable[Reply]],
        story: Callable[[str], Awaitable[Any]],
        timeout_s: float,
    ) -> None:
        """Fly before a proxy whose jobs have `timeout_s` or more.

        `post` sends a job; `story` tells what the job server knows of one, for whoever reads a failure.
        """
        self._post = post
        self._story = story
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._allowed = {200}
        self._paused = False
        self._flight: asyncio.Task[None] | None = None
        self.replies: list[Reply] = []
        #: How many are under way.
        self.flying = 0

    def start(self) -> None:
        """Let them fly from now on."""
        self._flight = asyncio.ensure_future(self._fly())

    async def stop(self) -> None:
        """Wait until all are back. Raises what one of them met."""
        if self._flight is not None:
            self._flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flight
            assert self.replies or self._paused, "no canary flew"

    @contextlib.contextmanager
    def may_get(self, *statuses: int) -> Iterator[None]:
        """Allow those that are posted meanwhile other answers than 200: the row says so."""
        before, self._allowed = self._allowed, self._allowed | set(statuses)
        try:
            yield
        finally:
            self._allowed = before

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Have the next spare for oneself: no canary is under way, and none leaves for a moment."""
        await self.ground()
        try:
            yield
        finally:
            self._paused = False

    async def land(self) -> None:
        """Wait until none is under way: what those got that fly later counts again."""
        async with self.quiet():
            pass

    async def ground(self) -> None:
        """Fly no more in this test."""
        self._paused = True
        await eventually(lambda: not self.flying)

    async def _fly(self) -> None:
        async with asyncio.TaskGroup() as group:
            due = time.monotonic()
            try:
                while True:
                    if not self._paused and self.flying < _AT_ONCE:
                        self.flying += 1
                        group.create_task(self._canary())
                    due = max(due + _EVERY_S, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
            except asyncio.CancelledError:
                pass  # those under way land first

    async def _canary(self) -> None:
        allowed = self._allowed
        try:
            reply = await self._post({"account": f"canary-{next(self._numbers)}"})
        finally:
            self.flying -= 1
        starved = reply.code == "deadline-exceeded" and reply.own_s < self._timeout_s / 2
        if reply.status not in allowed | self._allowed and not starved:
            raise AssertionError(
                f"a canary got {reply.answer} after {reply.took_s:.2f} s: {await self._story(reply.ref)}"
            )
        self.replies.append(reply)
