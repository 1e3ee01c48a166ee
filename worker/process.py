"""A worker's process: everything is created before the fork, and what a child must not share is replaced after it.

A fork copies nothing at first; pages that a child touches are then copied one by one, which is most of the cost of a
process for each job. So the fork server creates one worker, with its queue, pipe, event loop and HTTP client, and each
child continues with these objects. Only their kernel objects have to be separate: two pipes, created before the fork,
and the loop's epoll object. `dup2` puts them under the descriptors that the objects already use, so that no object is
changed or created.

It is not a `multiprocessing.Process`: that checks every living sibling at each start (quadratic: for 2,000 workers,
2,000 system calls each), makes two pipes through which parent and child see each other's end (a worker has its inbox
for that, its parent a pidfd), and opens /dev/null, which is already the fork server's standard input.
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
    """The template that every worker is forked from."""

    def __init__(self, main: Callable[[], object]) -> None:
        """`main` runs in a child, which exits after it."""
        self._main = main
        self.inbox = Inbox()
        self.inbox.close_writer()
        reader, writer = os.pipe()
        os.close(reader)
        self.outbox = Outbox(writer)  # placeholders: each child has its own two pipes

    def fork(self, not_ours: Iterable[int]) -> tuple[int, int, int]:
        """Fork; return the child's pid, the write end of its inbox and the read end of its outbox.

        The child closes the descriptors `not_ours` and never returns. Raises OSError if the machine cannot fork.
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
            os.setpgid(0, 0)  # its own group: its children end with it, and signals of a terminal do not reach it
            os.dup2(inbox_r, self.inbox.fileno(), inheritable=False)
            os.dup2(outbox_w, self.outbox.fileno(), inheritable=False)
            for fd in not_ours:
                os.close(fd)
            self._main()
            code = 0
        except BaseException as exc:  # noqa: BLE001 - whatever it is, there is no caller that could handle it
            sys.stderr.write(f"a new worker ended by {type(exc).__qualname__} at {origin(exc)}\n")
        finally:
            os._exit(code)
