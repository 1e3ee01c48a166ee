"""Work that may take long, in another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["in_thread"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def in_thread(work: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
    """Return what `work` returns for `arguments`, while the event loop goes on.

    At the limit of processes no thread can be started. Then the event loop waits, as a moment without answers is better
    than a lost one. `work` changes nothing, since a thread that becomes free may do it again.
    """
    try:
        working = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    except RuntimeError:
        return work(*arguments)
    return await working
