"""One worker process as the front end sees it: send, receive, stop, and notice its end. Nothing here blocks.

Invariants
----------
1. Every descriptor this object was given is closed exactly once, when the process is known to be gone.
2. What the worker wrote before it died is read before its death is reported.
3. The process is only ever signalled through its pidfd, so another process with a reused pid is never hit.
4. Its end is reported once, at the latest `_STATUS_WAIT_S` after it was noticed, with the exit status if it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable
from typing import Final, Protocol

from shared.errors import MessageError
from shared.messages import FrameReader, FromWorker, Log, ToWorker, decode_from_worker, encode, queue_frame

__all__ = ["GRACE_S", "JobHandler", "Worker"]

#: The time from SIGTERM to SIGKILL, and from the end of the last job to SIGTERM.
GRACE_S: Final = 0.5
#: How long to wait for the exit status from the fork server.
_STATUS_WAIT_S: Final = 0.25
_READ_BYTES: Final = 262_144
#: The maximum size of a message without its body.
_HEADER_BYTES: Final = 65_536
#: How many lines for the log a worker may send about a job. Each is about an unhandled exception.
_MAX_LINES: Final = 1_000


class JobHandler(Protocol):
    """The runner of a job in this worker."""

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def state_name(self) -> str:
        """The job's state."""

    def on_message(self, message: FromWorker) -> None:
        """Receive a message from the worker."""

    def on_death(self, reason: str) -> None:
        """The worker is gone; `reason` is for a person."""


class Worker:
    """A live worker process."""

    def __init__(
        self,
        *,
        pid: int,
        pidfd: int,
        inbox_fd: int,
        outbox_fd: int,
        max_body_bytes: int,
        on_exit: Callable[[Worker], None],
        on_log: Callable[[Worker, Log], None],
    ) -> None:
        """Take over the three descriptors and watch the process."""
        self.pid = pid
        self.jobs_done = 0
        #: How many lines for the log it has sent since its last job; set to 0 by the pool.
        self.lines = 0
        self.born = time.monotonic()
        #: When it became idle, in the event loop's time; set by the pool.
        self.idle_since = 0.0
        self.stopping = False
        self.gone = False
        #: Negative for a signal; None if unknown.
        self.status: int | None = None
        self.handler: JobHandler | None = None
        self._pidfd = pidfd
        self._inbox_fd = inbox_fd
        self._outbox_fd = outbox_fd
        self._on_exit = on_exit
        self._on_log = on_log
        self._reader = FrameReader(max_body_bytes + _HEADER_BYTES)
        self._unsent = bytearray()
        self._broken = ""
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        os.set_blocking(inbox_fd, False)
        os.set_blocking(outbox_fd, False)
        self._loop.add_reader(outbox_fd, self._on_readable)
        self._loop.add_reader(pidfd, self.on_ended)

    @property
    def broken(self) -> bool:
        """Whether it sent an invalid message: then neither its messages nor their absence can be trusted."""
        return bool(self._broken)

    # --- messages ----------------------------------------------------------------------------------------------------

    def send(self, message: ToWorker) -> None:
        """Send `message`; what the pipe does not accept now is sent when it can be. Ignored if the worker is gone."""
        frame = queue_frame(encode(message))
        if not self._unsent:
            frame = frame[self._write(frame) :]
            if frame and not self.gone:
                self._loop.add_writer(self._inbox_fd, self._flush)
        self._unsent += frame

    @property
    def has_unread(self) -> bool:
        """Whether it has not read all that it was sent."""
        if self._inbox_fd < 0:
            return False
        unread = fcntl.ioctl(self._inbox_fd, termios.FIONREAD, bytes(4))
        return bool(self._unsent) or any(unread)

    def _flush(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._inbox_fd)

    def _write(self, data: bytes | bytearray) -> int:
        if self._inbox_fd < 0:
            return len(data)
        try:
            return os.write(self._inbox_fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            # It is gone, and its exit is handled elsewhere; or it has closed its inbox, or the kernel has no memory for
            # the message: then it would never get it.
            self.kill()
            return len(data)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._outbox_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._outbox_fd)
            self.kill()  # without its outbox it is useless
            return
        self._hear(data)

    def _hear(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self._deliver(decode_from_worker(payload))
        except MessageError as exc:
            self._loop.remove_reader(self._outbox_fd)
            self._broken = f"it sent {exc}"
            self.kill()

    def _deliver(self, message: FromWorker) -> None:
        match message:
            case Log():
                self.lines += 1
                if self.lines > _MAX_LINES:
                    raise MessageError(f"more than {_MAX_LINES} lines for the log")
                self._on_log(self, message)
            case _ if self.handler is not None and message.job_id == self.handler.job_id:
                self.handler.on_message(message)

    # --- ending ------------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Let the worker exit by itself after its last job. If it does not, it is stopped."""
        self.stopping = True
        if self._ended:
            return
        self._close_inbox()
        self._after(GRACE_S, self.stop)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after the grace period."""
        self.stopping = True
        if self._ended:
            return
        self._signal(signal.SIGTERM)
        self._after(GRACE_S, self.kill)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.stopping = True
        if self._ended:
            return  # the running timer will report the end
        self._cancel_timer()
        self._signal(signal.SIGKILL)

    def on_status(self, status: int) -> None:
        """Handle the fork server's report that the process was reaped, with its exit status."""
        self.status = status
        if self._ended:
            self._report()
        else:
            self.on_ended()

    def on_ended(self) -> None:
        """Handle the exit of the process: read what it left, then report, with its exit status if that arrives soon."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._pidfd)
        self._drain()
        self._reap_orphan()
        if self.status is None:
            self._after(_STATUS_WAIT_S, self._report)
        else:
            self._report()

    def _drain(self) -> None:
        self._loop.remove_reader(self._outbox_fd)
        while not self._broken:
            try:
                data = os.read(self._outbox_fd, _READ_BYTES)
            except OSError:  # nothing more to read; the worker is dead, though a child of it may hold the pipe open
                return
            if not data:
                return
            self._hear(data)

    def _reap_orphan(self) -> None:
        """Reap the process if its fork server is gone and it has become our child."""
        with contextlib.suppress(OSError):
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)  # not yet reaped: the process id is still its own
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            self.status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _report(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._cancel_timer()
        self._close_inbox()
        os.close(self._outbox_fd)
        os.close(self._pidfd)
        self._on_exit(self)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.on_death(self._reason())

    @property
    def end(self) -> str:
        """How it ended: the signal, `exit 1`, `broken` (it was killed for an invalid message), or `unknown`."""
        if self._broken:
            return "broken"
        if self.status is None:
            return "unknown"
        return _signal_name(-self.status) if self.status < 0 else f"exit {self.status}"

    def _reason(self) -> str:
        if self._broken:
            return f"{self._broken} and was killed"
        if self.status is None:
            return "it died, and its exit status is unknown"
        if self.status < 0:
            return f"it was killed by {_signal_name(-self.status)}"
        return f"it exited with code {self.status}"

    def _close_inbox(self) -> None:
        if self._inbox_fd >= 0:
            self._loop.remove_writer(self._inbox_fd)
            os.close(self._inbox_fd)
            self._inbox_fd = -1
            self._unsent.clear()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._cancel_timer()
        if not self.gone:
            self._timer = self._loop.call_later(delay_s, call)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
