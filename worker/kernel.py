"""What the fork server asks of the kernel for itself and its workers, before it loads anything heavy."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

__all__ = ["ask_kernel"]

_PR_SET_PDEATHSIG = 1
_PR_SET_THP_DISABLE = 41
#: Workers are what the kernel should kill first when memory runs out, never the front end.
_OOM_SCORE = "500"


def ask_kernel() -> None:
    """Be woken when the front end dies; be killed first when memory runs out; get no huge pages; preempt nobody.

    A fork server that somebody has stopped does not see that its channel has ended, and it is the one that ends workers
    then: so the kernel is to send it SIGCONT, which does nothing to a process that runs. One that is too late to ask,
    as the front end is dead already, is one that runs, and sees the end of its channel.

    With SCHED_BATCH (sched(7)) a worker that wakes up waits for a free CPU or for its turn. Otherwise each message from
    the front end would interrupt the front end for the worker that gets it.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a worker would get two megabytes where it needs a page
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(_OOM_SCORE)
