"""Orders to the database, and the lanes in which they are queued.

A lane has one batch under way at a time; the orders that arrive meanwhile are the next one. A batch is one transaction.
If the database is unavailable, the batch is retried for as long as somebody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from proxy import log
from proxy.store.postgresql.ends import pause
from proxy.store.postgresql.health import Health
from proxy.store.postgresql.session import LOCKED, GoneError, Session, UnfitError, code_of
from shared.errors import StoreUnavailableError

__all__ = ["Lane", "Order", "fail", "settle"]

#: The limits of a batch. An order with more bytes is a batch of its own.
_ORDERS: Final = 256
_BYTES: Final = 4 * 1024 * 1024
#: The pause between retries while the database is unavailable.
_AGAIN_S: Final = 0.1


class Order(Protocol):
    """What a lane carries out."""

    @property
    def until(self) -> float:
        """When to give it up, by the monotonic clock."""
        ...

    @property
    def size_bytes(self) -> int:
        """About how much is sent for it."""
        ...


T = TypeVar("T", bound=Order)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways(Generic[T]):
    """What a lane does with its orders."""

    carry_out: Callable[[list[T]], Awaitable[None]]
    give_up: Callable[[T, Exception], None]
    pace_s: Callable[[], float]
    proves: bool


class Lane(Generic[T]):
    """Orders of one kind, over one session."""

    def __init__(
        self,
        session: Session,
        health: Health,
        *,
        carry_out: Callable[[list[T]], Awaitable[None]],
        give_up: Callable[[T, Exception], None],
        pace_s: Callable[[], float] = lambda: 0.0,
        proves: bool = False,
    ) -> None:
        """Start the lane; must run inside an event loop.

        `carry_out` executes a batch and settles its orders; it may be called again with the same ones after a
        GoneError. `give_up` is called with the reason for an order that has timed out and for one that is unfit.
        `pace_s`: the minimum time between the starts of two batches. `proves`: whether a successful batch shows that
        the database can record something.
        """
        self._session = session
        self._health = health
        self._ways = _Ways(carry_out=carry_out, give_up=give_up, pace_s=pace_s, proves=proves)
        self._waiting: list[T] = []
        self._away: list[T] = []
        #: The orders of `_away` that were given up meanwhile, by `id()`; they may still be carried out.
        self._given_up: set[int] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.batches = 0
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __len__(self) -> int:
        """How many orders are not done."""
        return len(self._waiting) + sum(id(order) not in self._given_up for order in self._away)

    def add(self, order: T) -> None:
        """Queue an order."""
        self._waiting.append(order)
        self._idle.clear()
        self._wake.set()

    def pending(self) -> list[T]:
        """Return the orders that are not done, the oldest first."""
        return [order for order in self._away if id(order) not in self._given_up] + self._waiting

    @property
    def may_succeed_late(self) -> bool:
        """Whether orders that were given up are still being carried out."""
        return bool(self._given_up)

    async def flush(self, timeout_s: float) -> None:
        """Wait until all orders are done, at most that long."""
        await pause(self._idle, timeout_s)

    async def close(self) -> None:
        """Stop; the remaining orders are given up."""
        self._closing = True
        self._session.close()
        self._wake.set()
        await asyncio.wait((self._task,), timeout=1.0)
        self._task.cancel()
        for order in self.pending():
            self._ways.give_up(order, StoreUnavailableError("the proxy is ending"))

    def look(self, now: float, reason: str) -> None:
        """Drop orders that nobody waits for any more."""
        late = [order for order in self.pending() if order.until <= now]
        if not late:
            return
        late_ids = set(map(id, late))
        self._given_up |= {id(order) for order in self._away if id(order) in late_ids}
        self._waiting = [order for order in self._waiting if id(order) not in late_ids]
        for order in late:
            self._ways.give_up(order, StoreUnavailableError(reason))

    async def _run(self) -> None:
        in_a_row = 0
        while not self._closing:
            if not self._waiting:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            began = time.monotonic()
            self._away = self._take()
            try:
                await self._carry_out(self._away)
            except GoneError as exc:
                self._health.failed(str(exc), began, writing=self._ways.proves)
                # Retry at once the first time: the connection may only have broken while it was idle.
                again_s, in_a_row = (_AGAIN_S if in_a_row else 0.0), in_a_row + 1
                left = [order for order in self._away if id(order) not in self._given_up]
                self._waiting = left + self._waiting
            except Exception as exc:  # noqa: BLE001 - a bug of ours must not leave everybody waiting forever
                log.event("error", "unhandled exception in the journal", **log.exception_fields(exc))
                error = StoreUnavailableError(f"unhandled exception in the journal: {type(exc).__name__}")
                for order in self._away:
                    self._ways.give_up(order, error)
                again_s = 0.0
            else:
                self.batches += 1
                in_a_row = 0
                if self._ways.proves:
                    self._health.worked()
                again_s = began + self._ways.pace_s() - time.monotonic()
            self._away = []
            self._given_up.clear()
            if again_s > 0:
                await asyncio.sleep(again_s)

    def _take(self) -> list[T]:
        size, end = 0, 0
        for order in self._waiting[:_ORDERS]:
            size += order.size_bytes
            if size > _BYTES and end:
                break
            end += 1
        batch, self._waiting = self._waiting[:end], self._waiting[end:]
        return batch

    async def _carry_out(self, batch: list[T]) -> None:
        """Carry out a batch; if an order is unfit, carry out each alone, so that only the unfit ones are given up.

        The same if a row is locked, so that only the order that needs it waits.
        """
        try:
            await self._ways.carry_out(batch)
        except GoneError as exc:
            if code_of(exc) != LOCKED or len(batch) == 1:
                raise
            await self._carry_out_unlocked(batch)
        except UnfitError as exc:
            if len(batch) > 1:
                for order in batch:
                    await self._carry_out([order])
            else:
                self._ways.give_up(batch[0], exc)

    async def _carry_out_unlocked(self, batch: list[T]) -> None:
        """Carry out each order alone. Raises GoneError if any has to wait; those that are done are not repeated."""
        locked: GoneError | None = None
        for order in list(batch):  # it is `_away`
            try:
                await self._carry_out([order])
            except GoneError as exc:
                self._away.remove(order)
                self._away.append(order)  # the next time, the others come first
                if locked is not None or code_of(exc) != LOCKED:  # two of them: the whole table may be locked
                    raise
                locked = exc
            else:
                self._away.remove(order)
        if locked is not None:
            raise locked


def settle(done: asyncio.Future[Any], value: Any = None) -> None:  # noqa: ANN401 - as many types as orders
    """Complete an order, unless nobody waits for it."""
    if not done.done():
        done.set_result(value)


def fail(done: asyncio.Future[Any], error: Exception) -> None:
    """Fail an order, unless nobody waits for it."""
    if not done.done():
        done.set_exception(error)
        done.exception()  # a note has no caller that would retrieve this
