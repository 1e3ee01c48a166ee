"""Waits for conditions, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.support.stopwatch import Stopwatch

__all__ = ["IN_VAIN_S", "eventually", "eventually_blocking"]

_LOOK_S: Final = 0.01
#: The limit for conditions without a limit of their own: only so that a test that waits in vain ends with a message.
IN_VAIN_S: Final = 30.0


async def eventually(
    condition: Callable[[], Awaitable[Any] | Any],
    timeout_s: float = IN_VAIN_S,
    watch: Stopwatch | None = None,
    *,
    every_s: float = _LOOK_S,
) -> Any:  # noqa: ANN401 - as many types as conditions
    """Return what `condition` returns, or resolves to, once that is true; fail after `timeout_s`.

    Time in which this process was starved of CPU does not count. If the limit is a promise of other processes, pass a
    stopwatch that watches them as `watch`; the limit then counts from its start. Pass a longer `every_s` if a look at
    the condition is expensive.
    """
    watch = watch or Stopwatch()
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        _check(watch, timeout_s, value)
        await asyncio.sleep(every_s)


def eventually_blocking(
    condition: Callable[[], Any],
    timeout_s: float = IN_VAIN_S,
    watch: Stopwatch | None = None,
    *,
    every_s: float = _LOOK_S,
) -> Any:  # noqa: ANN401 - as above
    """Do the same without an event loop."""
    watch = watch or Stopwatch()
    while not (value := condition()):
        _check(watch, timeout_s, value)
        time.sleep(every_s)
    return value


def _check(watch: Stopwatch, timeout_s: float, value: object) -> None:
    over = watch.is_over(timeout_s)
    assert not over, f"not so within {timeout_s:g} s ({watch.took_s:.1f} s in all); last seen: {value!r}"
