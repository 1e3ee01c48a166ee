"""An event loop that is made before the fork and used after it.

Making an event loop and an HTTP client costs a fresh process a tenth of all it does, most of it for memory that is
written to and so has to be copied. The fork server makes both once. What must not be shared with the parent and with
every sibling are the kernel objects inside the loop: the selector, and the pipe that wakes it up from another thread. A
child replaces both before it runs.
"""

from __future__ import annotations

import asyncio
import selectors

__all__ = ["ForkableLoop"]


class ForkableLoop(asyncio.SelectorEventLoop):
    """A loop that can go on in a child."""

    _selector: selectors.BaseSelector

    def after_fork_in_child(self) -> None:
        """Let go of the parent's kernel objects; to be called before the loop runs in the child.

        Closing our descriptors changes nothing for the parent. The new selector knows nothing of the old pipe, so that
        is closed without a trace.
        """
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._close_self_pipe()  # type: ignore[attr-defined] # asyncio's, the same from 3.11 to 3.14
        self._make_self_pipe()  # type: ignore[attr-defined]
