"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["eventually", "eventually_blocking"]

_LOOK_S: Final = 0.01


async def eventually(condition: Callable[[], Awaitable[Any] | Any], timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - as many types as conditions; it is the limit of a look-out
    """Return what `condition` returns, or resolves to, once that is true; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s; last seen: {value!r}"
        await asyncio.sleep(_LOOK_S)


def eventually_blocking(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - as above
    """Do as `eventually` does, where there is no event loop."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s; last seen: {value!r}"
        time.sleep(_LOOK_S)
    return value
