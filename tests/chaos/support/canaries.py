"""Canaries: a plain job every 100 ms during a test, every 250 ms in a long one, a few at a time; each has to get 200.

A canary that timed out while processes were waiting for CPU time says nothing about the proxy.
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
#: The first of them; a test that goes on then mostly waits, and canaries would be most of what it costs.
_OFTEN: Final = 20
_LATER_EVERY_S: Final = 0.25
#: On a slow machine, more of them would be a load of their own.
_AT_ONCE: Final = 3


class Canaries:
    """The canaries of one test."""

    def __init__(
        self,
        post: Callable[[dict[str, object]], Awaitable[Reply]],
        story: Callable[[str], Awaitable[Any]],
        timeout_s: float,
    ) -> None:
        """Run against a proxy whose job timeout is at least `timeout_s`.

        `post` sends a job; `story` returns what the job server knows about a job, for the message of a failure.
        """
        self._post = post
        self._story = story
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._allowed = {200}
        self._paused = False
        self._flight: asyncio.Task[None] | None = None
        self.replies: list[Reply] = []
        #: How many are in flight.
        self.flying = 0

    def start(self) -> None:
        """Start sending canaries."""
        self._flight = asyncio.ensure_future(self._fly())

    async def stop(self) -> None:
        """Wait until all are back. Raises the error of a failed canary."""
        if self._flight is not None:
            self._flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flight
            assert self.replies or self._paused, "no canary flew"

    @contextlib.contextmanager
    def may_get(self, *statuses: int) -> Iterator[None]:
        """Allow other statuses than 200 for those posted within the block: the row says so."""
        before, self._allowed = self._allowed, self._allowed | set(statuses)
        try:
            yield
        finally:
            self._allowed = before

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Reserve the next spare: no canary is in flight, and none starts for a moment."""
        await self.ground()
        try:
            yield
        finally:
            self._paused = False

    async def land(self) -> None:
        """Wait until none is in flight: later ones have to get 200 again."""
        async with self.quiet():
            pass

    async def ground(self) -> None:
        """Send no more canaries in this test."""
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
                    every_s = _EVERY_S if len(self.replies) < _OFTEN else _LATER_EVERY_S
                    due = max(due + every_s, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
            except asyncio.CancelledError:
                pass  # let those in flight finish first

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
