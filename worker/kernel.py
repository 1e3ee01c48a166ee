"""The fork server's own settings in the kernel, before it loads anything heavy (prctl(2))."""

from __future__ import annotations

import contextlib
import ctypes
import signal

__all__ = ["ask_kernel"]

_PR_SET_PDEATHSIG = 1
_PR_SET_THP_DISABLE = 41
#: When memory runs out, the kernel should kill workers first, never the front end.
_OOM_SCORE = "500"


def ask_kernel() -> None:
    """Be woken when the front end dies; be killed first when memory runs out; get no huge pages.

    A stopped fork server does not see that its channel has ended, but has to kill the workers then: so the kernel sends
    it SIGCONT, which does nothing to a running process. If the front end is already dead, this request is too late, but
    then this process is running, and sees the end of its channel.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a worker would get two megabytes where it needs one page
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(_OOM_SCORE)
