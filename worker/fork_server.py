"""The fork server: a small, preloaded, warmed-up, single-threaded process that forks the workers.

Theory of operation
-------------------
The front end has threads and much memory, so it must not fork, and a fresh interpreter costs hundreds of milliseconds.
This process contains only what a worker needs; it gets requests over a socket (`Fork`), forks (worker/process.py), and
passes back three descriptors of each worker: its pidfd, the write end of its inbox and the read end of its outbox. It
keeps no copy of them, so the front end sees the end of a worker as EOF, and a worker sees the end of the front end as
EOF.

It reaps the workers and reports each exit (`Exited`). Before it reaps a worker, it kills the rest of the worker's
process group: as long as the zombie exists, the group's number cannot be reused.

Its own death, by a signal or an unhandled exception, does not affect the workers. When the front end dies, the socket
closes, and this process kills every worker, even one that is stopped and could not exit by itself; with a journal, it
first gives them time to finish a submission.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

from shared.messages import WORKERS_AT_ONCE, Exited, Forked, ForkFailed, decode_fork, encode
from worker.before_fork.holes import fill_holes
from worker.before_fork.immortal import make_immortal
from worker.before_fork.warm_up import rehearse
from worker.job_client import JobServers
from worker.loop import ForkableLoop
from worker.main import Worker, run
from worker.process import WorkerProcess

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from shared.worker_config import WorkerConfig

__all__ = ["ForkServer", "main"]

_REQUEST_BYTES: Final = 65_536


def main(channel: socket.socket, config: WorkerConfig) -> None:
    """Serve the front end at the other end of `channel` until it is gone."""
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C and reloads concern only the front end
        signal.signal(number, signal.SIG_IGN)
    loop = ForkableLoop()
    fork_server = ForkServer(channel, loop, config)
    rehearse(loop, config)
    if config.immortal_objects:
        make_immortal()
    gc.freeze()  # a collection in a child would write to, and so copy, every page that holds an object
    fill_holes()
    fork_server.serve()
    os._exit(0)  # nothing to clean up, and signals of dying workers must not interrupt the interpreter's shutdown


class ForkServer:
    """Forks workers on request and reaps them."""

    def __init__(self, channel: socket.socket, loop: ForkableLoop, config: WorkerConfig) -> None:
        """`loop` is the loop of workers for one job."""
        self._channel = channel
        self._linger_s = config.linger_s
        self._wakeup_r, self._wakeup_w = socket.socketpair()
        self._not_the_childs = [end.fileno() for end in (channel, self._wakeup_r, self._wakeup_w)]
        self._process = WorkerProcess(self._in_child)
        self._loop = loop
        self._worker = Worker(JobServers(config), self._process.outbox, config.max_jobs, config.linger_s)
        loop.set_exception_handler(self._worker.on_loop_error)
        self._faster_loop = _faster_loop() if config.max_jobs != 1 else None
        self._poll = select.poll()
        self._children: set[int] = set()
        self._wanted = 0

    def serve(self) -> None:
        """Fork and reap until the front end is gone, then let workers finish a submission, and kill every worker."""
        for end in (self._wakeup_r, self._wakeup_w):
            end.setblocking(False)  # noqa: FBT003 - its only argument
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._wakeup_w.fileno(), warn_on_full_buffer=False)
        channel, wakeup = self._channel.fileno(), self._wakeup_r.fileno()
        self._poll.register(channel, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front end is gone, with unread messages
            self._serve(channel, wakeup)
        self._let_finish()
        self._kill_all()

    def _serve(self, channel: int, wakeup: int) -> None:
        while True:
            for fd, _ in self._poll.poll(0 if self._wanted else None):
                if fd == channel and not self._read():
                    return
                if fd == wakeup:
                    self._reap()
            if self._wanted:
                self._fork()

    def _read(self) -> bool:
        data = self._channel.recv(_REQUEST_BYTES)
        if data:
            self._wanted += decode_fork(data).workers
        return bool(data)

    def _fork(self) -> None:
        """Make some of the requested workers; passing them on together takes less time than one by one."""
        pids: list[int] = []
        fds: list[int] = []
        reason = ""
        while self._wanted and len(pids) < WORKERS_AT_ONCE and not reason:
            self._wanted -= 1
            try:
                pid, made = self._fork_one(fds)
            except OSError as exc:
                reason = os.strerror(exc.errno or 0)
            else:
                pids.append(pid)
                fds += made
        try:
            if pids:
                self._pass_on(pids, fds)
            if reason:
                self._channel.send(encode(ForkFailed(reason=reason)))
        finally:
            for fd in fds:
                os.close(fd)

    def _pass_on(self, pids: list[int], fds: list[int]) -> None:
        message = encode(Forked(pids=pids))
        try:
            socket.send_fds(self._channel, [message], fds)
        except OSError as exc:
            if exc.errno != errno.ETOOMANYREFS:
                raise
            # Too many of this user's descriptors are on their way already (unix(7)). Without theirs, these workers
            # exit, and the front end takes them for ones that could not be started.
            self._channel.send(message)

    def _fork_one(self, siblings: list[int]) -> tuple[int, list[int]]:
        """Return a worker's pid and its descriptors for the front end; the worker closes those of its `siblings`."""
        pid, *ends = self._process.fork((*self._not_the_childs, *siblings))
        self._children.add(pid)
        try:
            return pid, [os.pidfd_open(pid), *ends]
        except OSError:
            for fd in ends:  # a worker without a pidfd exits by itself: its inbox has no writer any more
                os.close(fd)
            raise

    def _in_child(self) -> None:
        signal.set_wakeup_fd(-1)  # its descriptor is closed here, and a connection may soon get its number
        if self._faster_loop is None:
            self._loop.after_fork_in_child()
            run(self._loop, self._worker, self._process.inbox)
        loop = self._faster_loop()
        loop.set_exception_handler(self._worker.on_loop_error)
        run(loop, self._worker, self._process.inbox)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup_r.recv(_REQUEST_BYTES)
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            pid = ended.si_pid
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            self._children.discard(pid)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front end is gone: detected as EOF
                self._channel.send(encode(Exited(pid=pid, status=os.waitstatus_to_exitcode(status))))

    def _let_finish(self) -> None:
        """Wait for workers that finish a submission; all others exit at once, as their inbox ends."""
        self._poll.unregister(self._channel.fileno())
        end = time.monotonic() + self._linger_s
        while self._children and (left_s := end - time.monotonic()) > 0:
            if self._poll.poll(left_s * 1000):
                self._reap()

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)


def _faster_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a factory for a loop that saves a worker a third of each job, but cannot be created before the fork.

    Creating it costs more than one job saves.
    """
    from uvloop import new_event_loop  # noqa: PLC0415 - every worker would carry it, with TLS, even where it is useless

    return new_event_loop


def _nothing(_number: int, _frame: object) -> None:
    """Let SIGCHLD wake the loop, which is enough; workers inherit this handler, but have no children."""
