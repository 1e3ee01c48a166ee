"""An event loop that is made before the fork and used after it.

Making an event loop costs a fresh process a tenth of all it does, most of it for memory that is written to and so has
to be copied. The fork server makes one. What must not be shared with the parent and with every sibling are the two
kernel objects inside it: what it waits with, and the socket that wakes it up from another thread. A child replaces the
first before it runs; the second when it starts a thread, which only the look-up of a name does.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["ForkableLoop"]


class ForkableLoop(asyncio.SelectorEventLoop):
    """A loop that can go on in a child."""

    _selector: selectors.EpollSelector

    def __init__(self) -> None:
        super().__init__(selectors.EpollSelector())
        self._is_woken_by_parent = False

    def after_fork_in_child(self) -> None:
        """Let go of the parent's kernel objects; to be called before the loop runs in the child.

        Nothing may be registered but the loop's own wake-up socket: the new epoll object knows nothing of the old one.
        """
        fresh = select.epoll()
        os.dup2(fresh.fileno(), self._selector.fileno(), inheritable=False)
        fresh.close()
        self._is_woken_by_parent = True

    def run_in_executor(  # type: ignore[override] # variadic generics are more than this needs
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread; the thread wakes this loop up, so the wake-up socket has to be this process's own."""
        if self._is_woken_by_parent:
            self._is_woken_by_parent = False
            self._close_self_pipe()  # type: ignore[attr-defined] # asyncio's, the same from 3.11 to 3.14
            self._make_self_pipe()  # type: ignore[attr-defined]
        return super().run_in_executor(executor, func, *args)
