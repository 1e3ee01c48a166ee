"""The process of a worker: all of it is made before the fork, and what a child must not share is replaced after.

A fork copies nothing; what a child touches is then copied, page by page, and that is most of what a job in a process of
its own costs. So the fork server makes a worker once, with its queue, its pipe, its event loop and its HTTP client, and
each child goes on with these objects. Only the kernel's part of them has to be a child's own: two pipes, made for it
before the fork, and what the loop waits with. `dup2` puts them under the descriptors that the objects know already, so
that no object changes and none is made.

It is no `multiprocessing.Process`: that looks at every living sibling at each start (quadratic: 2,000 workers, 2,000
system calls each), makes two pipes that tell parent and child of each other's end (a worker has its inbox for that, and
its parent a pidfd), and opens /dev/null, which the fork server's standard input is already.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from shared.stack import origin
from worker.pipes import Inbox, Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """What every worker is forked from."""

    def __init__(self, main: Callable[[], object]) -> None:
        """`main` is what a child runs; it ends with it."""
        self._main = main
        self.inbox = Inbox()
        self.inbox.close_writer()
        reader, writer = os.pipe()
        os.close(reader)
        self.outbox = Outbox(writer)  # these two pipes are nobody's: each child has its own

    def fork(self, not_ours: Iterable[int]) -> tuple[int, int, int]:
        """Fork; return the child's pid, the writing end of its inbox and the reading end of its outbox.

        The child closes the descriptors `not_ours` and never returns. Raises OSError if the machine cannot.
        """
        fds: list[int] = []
        try:
            fds += os.pipe()
            fds += os.pipe()
            pid = os.fork()
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        inbox_r, inbox_w, outbox_r, outbox_w = fds
        if pid == 0:
            self._be_child(inbox_r, outbox_w, (*fds, *not_ours))
        os.close(inbox_r)
        os.close(outbox_w)
        return pid, inbox_w, outbox_r

    def _be_child(self, inbox_r: int, outbox_w: int, not_ours: Iterable[int]) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)  # a group of its own: what it starts ends with it, and no terminal's signal reaches it
            os.dup2(inbox_r, self.inbox.fileno(), inheritable=False)
            os.dup2(outbox_w, self.outbox.fileno(), inheritable=False)
            for fd in not_ours:
                os.close(fd)
            self._main()
            code = 0
        except BaseException as exc:  # noqa: BLE001 - whatever it is, there is nobody above to hear of it
            sys.stderr.write(f"a new worker ended by {type(exc).__qualname__} at {origin(exc)}\n")
        finally:
            os._exit(code)
