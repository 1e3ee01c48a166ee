"""Orphans: this process adopts and reaps the processes that its descendants leave behind, even if no init does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

__all__ = ["become_subreaper", "reap_orphans"]

_PR_SET_CHILD_SUBREAPER: Final = 36


def become_subreaper() -> None:
    """Make this process the parent of its descendants' orphans (prctl(2)); otherwise init would be."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(loop: asyncio.AbstractEventLoop, known: Callable[[], Collection[int]]) -> None:
    """From now on, reap every child that exits and is not `known`; the owners of the known ones reap those.

    What is left of its process group is killed before: it may have been a worker that its fork server did not reap.
    """

    def sweep() -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in known():
                    loop.call_later(0.05, sweep)  # its owner reaps it; then look for more
                    return
                with contextlib.suppress(OSError):
                    os.killpg(ended.si_pid, signal.SIGKILL)  # not yet reaped: the process id is still its own
                os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)

    # Not with the loop's own method: uvloop reserves SIGCHLD for its subprocesses and would refuse it.
    signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(sweep))
