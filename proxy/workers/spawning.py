"""Starts the fork server's process.

It takes as long to load as the front end does, so the front end starts it before loading most of itself. Therefore this
file must have few imports, and not asyncio.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from proxy.workers.environment import child_environment

__all__ = ["Spawned", "spawn"]

#: The command line, to which the number of the socket's descriptor is appended.
COMMAND: tuple[str, ...] = (sys.executable, "-m", "worker")
#: A socket has room for this much, whatever the machine's settings.
_USUAL_BYTES: Final = 65_536
#: Each worker would otherwise bind symbols for itself.
_FOR_WORKERS: Final = {"LD_BIND_NOW": "1"}
_ROOT: Final = Path(__file__).resolve().parents[2]


class Spawned(NamedTuple):
    """A fork server's process, and the channels to it."""

    process: subprocess.Popen[bytes]
    #: Requests and reports.
    channel: socket.socket
    #: The stderr, and the stdout, of it and its workers; not blocking.
    stderr_fd: int


def spawn(config: bytes) -> Spawned:
    """Start a fork server; `config` is the first message to it. Blocks for some milliseconds.

    Raises:
        OSError: it cannot be started, or the configuration is too long for a message.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        stderr_fd, their_stderr_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        ours.close()
        theirs.close()
        raise
    try:
        os.set_blocking(their_stderr_fd, True)  # blocking for them: a write that fails would be another error
        _send(ours, config)
        process = _start(theirs.fileno(), their_stderr_fd)
    except BaseException:
        ours.close()
        os.close(stderr_fd)
        raise
    finally:
        theirs.close()
        os.close(their_stderr_fd)
    ours.setblocking(False)  # noqa: FBT003 - its only argument
    return Spawned(process, ours, stderr_fd)


def _send(channel: socket.socket, config: bytes) -> None:
    """Send the first message; that of large profiles needs more room than a socket usually has."""
    if len(config) > _USUAL_BYTES:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(config))
    try:
        channel.send(config)
    except OSError as exc:
        if exc.errno != errno.EMSGSIZE:
            raise
        words = f"the profiles are too large: workers would have to be sent {len(config)} bytes (net.core.wmem_max)"
        raise OSError(errno.EMSGSIZE, words) from exc


def _start(fd: int, stderr: int) -> subprocess.Popen[bytes]:
    # A session of its own: a signal to the front end's group must not reach workers with jobs to finish.
    return subprocess.Popen(  # noqa: S603 - our own module
        [*COMMAND, str(fd)],
        cwd=_ROOT,
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        start_new_session=True,
        env=child_environment() | _FOR_WORKERS,
    )
