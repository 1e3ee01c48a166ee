"""Starts processes that never outlive this one."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["reserve", "start", "with_us"]


def with_us(command: Sequence[str], end: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command for a process that the kernel sends `end` when the thread that started it ends (prctl(2)).

    setpriv is part of util-linux, so of every distribution. The setting is lost if the program changes its user.
    """
    return ["setpriv", "--pdeathsig", end.name.removeprefix("SIG"), *command]


def start(
    command: Sequence[str],
    log: Path,
    environ: Mapping[str, str] | None = None,
    *,
    end: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a process that writes to `log` and gets the signal `end` when this one ends.

    It has a session of its own: Ctrl-C reaches only us, and we stop the others in order.
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
    """Return a socket that reserves a port for a server with SO_REUSEADDR; 0: any free one. Raises OSError.

    It is bound but not listening: the kernel gives the port to nobody else while the server is down.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind(("127.0.0.1", port))
    except OSError:
        reservation.close()
        raise
    return reservation
