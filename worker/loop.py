"""An event loop that is created before the fork and used after it.

Creating an event loop costs a fresh process a tenth of its work, mostly for memory that is written and so has to be
copied. So the fork server creates one. Two of its kernel objects must not be shared with the parent and the siblings:
the epoll object, and the socket that wakes it up from another thread. A child replaces the first before it runs the
loop, and the second when it starts a thread, which only a name look-up does.
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
    """A loop that can continue in a child."""

    _selector: selectors.EpollSelector

    def __init__(self) -> None:
        super().__init__(selectors.EpollSelector())
        self._is_woken_by_parent = False

    def after_fork_in_child(self) -> None:
        """Replace the parent's kernel objects; to be called before the loop runs in the child.

        Nothing may be registered except the loop's own wake-up socket: the new epoll object does not know the
        registrations of the old one.
        """
        fresh = select.epoll()
        os.dup2(fresh.fileno(), self._selector.fileno(), inheritable=False)
        fresh.close()
        self._is_woken_by_parent = True

    def run_in_executor(  # type: ignore[override] # variadic generics are more than this needs
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread; the thread wakes this loop up, so the wake-up socket must not be the parent's."""
        if self._is_woken_by_parent:
            self._is_woken_by_parent = False
            self._close_self_pipe()  # type: ignore[attr-defined] # asyncio's, the same from 3.11 to 3.14
            self._make_self_pipe()  # type: ignore[attr-defined]
        return super().run_in_executor(executor, func, *args)
