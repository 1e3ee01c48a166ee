"""The front end's side of the fork server: start it, ask it for workers, receive its reports, notice its end.

Anybody can kill, terminate or stop the fork server. Its death is noticed by EOF on the socket; a fork server that is
stopped, or does not answer for long, is killed, which is noticed in the same way. One that does not exit even then,
because it hangs in the kernel (state D), counts as lost as well. Its workers survive.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from proxy.workers.spawning import spawn
from proxy.workers.stderr import log_output
from shared.errors import MessageError
from shared.messages import WORKERS_AT_ONCE, Exited, Fork, Forked, ForkFailed, decode_from_fork_server, encode

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from proxy.workers.spawning import Spawned

__all__ = ["ForkServer", "Listener"]

_MESSAGE_BYTES: Final = 65_536
_FDS: Final = 3
#: How many messages are read in one turn of the event loop.
_MESSAGES_AT_ONCE: Final = 16
#: How often to check a fork server that owes an answer, and how many checks in a row it may owe one: some 10 s, not
#: counting time in which this process was stopped itself. Until its first answer it may take longer: on a very slow
#: machine it is still loading, and the next one would be no faster.
_LOOK_S: Final = 0.25
_PATIENCE_LOOKS: Final = 40
_START_LOOKS: Final = 480
#: How long it may take to exit when asked to, and when killed.
_LEAVE_S: Final = 1.0


class Listener(Protocol):
    """Receives the workers and the reports."""

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Take over a new worker's descriptors."""

    def on_fork_failed(self, reason: str) -> None:
        """A worker could not be started."""

    def on_exited(self, pid: int, status: int) -> None:
        """A worker was reaped."""

    def on_lost(self) -> None:
        """The fork server died, or cannot be killed; the workers live. Called once."""


class ForkServer:
    """One fork server process."""

    def __init__(self, config: bytes, listener: Listener) -> None:
        """`config` is what the fork server reads first."""
        self._config = config
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._owed = 0
        self._unasked = 0
        self._owed_since = 0.0
        self._looks = 0
        self._patience_looks = _START_LOOKS
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False
        self._gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process else 0

    async def start(self, spawned: Spawned | None = None) -> None:
        """Start the process, or take over one that was `spawned` before. Raises OSError if that fails."""
        process, channel, stderr_fd = spawned or await self._spawn()
        log_output(stderr_fd)
        self._process = process
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:
            channel.close()
            raise
        self._channel = channel
        self._loop.add_reader(channel, self._on_readable)
        self._loop.add_reader(self._pidfd, self._on_ended)

    async def _spawn(self) -> Spawned:
        # Not the loop's executor: it keeps a call for which no thread could be started, and makes it later.
        executor = ThreadPoolExecutor(max_workers=1)
        try:
            spawning = self._loop.run_in_executor(executor, spawn, self._config)
        except RuntimeError as exc:
            raise OSError(errno.EAGAIN, "no thread can be started") from exc
        finally:
            executor.shutdown(wait=False)
        try:
            return await asyncio.shield(spawning)
        except asyncio.CancelledError:
            spawning.add_done_callback(_discard)
            raise

    def fork(self, count: int) -> None:
        """Request `count` workers; each is answered by `on_forked` or `on_fork_failed`, unless the process is lost."""
        if self._channel is None or count <= 0:
            return
        self._owe(count)
        if not self._unasked:
            self._loop.call_soon(self._ask)  # a burst of requests becomes one message
        self._unasked += count

    def _ask(self) -> None:
        """Send the requests; what the socket does not accept now is sent when it can be."""
        if self._channel is None or not self._unasked:
            return
        try:
            self._channel.send(encode(Fork(workers=self._unasked)))
        except BlockingIOError:
            self._loop.add_writer(self._channel, self._ask)
            return
        except OSError:  # it is gone, or the kernel has no memory for the message: another one is asked
            self.kill()
            return
        self._unasked = 0
        self._loop.remove_writer(self._channel)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
            self._channel.close()
            self._channel = None

    async def stop(self) -> None:
        """End the fork server and all its remaining workers."""
        self._close_channel()
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), _LEAVE_S)
            self.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), _LEAVE_S)

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self._gone.done() and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._set_timer(_LEAVE_S, self._lose)

    # --- its reports -----------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            if not self._read_one():
                return

    def _read_one(self) -> bool:
        """Read one message; return whether there may be another."""
        if self._channel is None:
            return False
        try:
            data, fds = _receive(self._channel)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        if not data:
            self._close_channel()
            self.kill()
            return False
        self._hear(data, fds)
        return True

    def _hear(self, data: bytes, fds: list[int]) -> None:
        try:
            message = decode_from_fork_server(data)
        except MessageError:
            _close(fds)
            self.kill()
            return
        self._patience_looks = _PATIENCE_LOOKS
        match message:
            case Forked():
                self._hand_over(message.pids, fds)
            case ForkFailed():
                self._owe(-1)
                self._listener.on_fork_failed(message.reason)
            case Exited():
                self._listener.on_exited(message.pid, message.status)

    def _hand_over(self, pids: list[int], fds: list[int]) -> None:
        """Pass on the workers whose descriptors all arrived: the kernel drops descriptors beyond the limit."""
        self._owe(-len(pids))
        whole = min(len(pids), len(fds) // _FDS)
        for i in range(whole):
            self._listener.on_forked(pids[i], *fds[i * _FDS : (i + 1) * _FDS])
        _close(fds[whole * _FDS :])  # a worker whose descriptors are incomplete sees its inbox close, and exits
        for _ in pids[whole:]:
            self._listener.on_fork_failed(os.strerror(errno.EMFILE))

    # --- whether it is alive ---------------------------------------------------------------------------------------

    def _owe(self, count: int) -> None:
        if count < 0 or not self._owed:
            self._owed_since = self._loop.time()
            self._looks = 0
        self._owed = max(0, self._owed + count)
        if self._owed and self._timer is None:
            self._set_timer(_LOOK_S, self._look)

    def _set_timer(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, call)

    def _look(self) -> None:
        self._timer = None
        if not self._owed:
            return
        self._looks += 1
        overdue_s = self._loop.time() - self._owed_since
        if self._looks > self._patience_looks or (overdue_s > _LOOK_S / 2 and _is_stopped(self.pid)):
            self.kill()
            return
        self._set_timer(_LOOK_S, self._look)

    def _lose(self) -> None:
        """Report the loss, once."""
        self._close_channel()
        if not self._is_lost:
            self._is_lost = True
            self._listener.on_lost()

    def _on_ended(self) -> None:
        """Handle the exit of the process: read what it left in the socket, reap it, report."""
        self._loop.remove_reader(self._pidfd)
        while self._read_one():
            pass
        if self._process is not None:
            self._process.wait()  # it has exited: this does not block
        os.close(self._pidfd)
        self._pidfd = -1
        if self._timer is not None:
            self._timer.cancel()
        self._gone.set_result(None)
        self._lose()


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(WORKERS_AT_ONCE * _FDS * 4)
    data, ancillary, _, _ = channel.recvmsg(_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += memoryview(payload[: len(payload) // 4 * 4]).cast("i").tolist()
    return data, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _is_stopped(pid: int) -> bool:
    """Return whether the process is stopped by a signal or a tracer (proc(5), state T or t)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _discard(spawning: asyncio.Future[Spawned]) -> None:
    """Drop a fork server that is no longer wanted: it exits when its channel is closed."""
    if not spawning.cancelled() and spawning.exception() is None:
        _, channel, stderr_fd = spawning.result()
        channel.close()
        os.close(stderr_fd)
