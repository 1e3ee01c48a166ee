"""Starting processes that never outlive the one that started them."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["reserve", "start", "with_us"]


def with_us(command: Sequence[str], end: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command for a process that the kernel sends `end` when the thread that starts it is gone (prctl(2)).

    setpriv is part of util-linux, and so of every distribution. A program that runs as another user has it lost.
    """
    return ["setpriv", "--pdeathsig", end.name.removeprefix("SIG"), *command]


def start(
    command: Sequence[str],
    log: Path,
    environ: Mapping[str, str] | None = None,
    *,
    end: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a process that writes to `log` and ends, by `end`, when this one does.

    It has a session of its own: Ctrl-C reaches us alone, and we end the others in order.
    """
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own arguments
            with_us(command, end),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )


def reserve(port: int = 0) -> socket.socket:
    """Return a socket that keeps a port for whoever listens on it with SO_REUSEADDR; 0: any free one. Raises OSError.

    It is bound and never listened on: the kernel gives the port to nobody else while that server is down.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind(("127.0.0.1", port))
    except OSError:
        reservation.close()
        raise
    return reservation
