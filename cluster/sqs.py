"""A stand-in for Amazon SQS on this machine: moto's server, as a process of its own. Its end is that of its messages.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Final, Self

__all__ = ["ACCOUNT", "CREDENTIALS", "SqsStandIn", "SqsStandInError"]

#: What an SDK needs to talk to it: any key will do.
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "anybody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
#: Whose queues these are.
ACCOUNT: Final = "123456789012"
_START_S: Final = 30.0
_LOOK_S: Final = 0.02


class SqsStandInError(Exception):
    """It did not start; the message says why."""


class SqsStandIn:
    """One server. As a context manager it runs within the block."""

    def __init__(self) -> None:
        """Start it, and return when it answers. Raises SqsStandInError."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Its address: the `endpoint_url` of an SDK."""
        return f"http://127.0.0.1:{self.port}"

    def queue_url(self, name: str) -> str:
        """Return the address of a queue, whether it exists or not."""
        return f"{self.url}/{ACCOUNT}/{name}"

    def pause(self) -> None:
        """Let it answer nobody; connections are accepted and stay silent."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> None:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise SqsStandInError(
                    "moto's server does not start. It is in requirements-dev.txt: make .venv/.dev-stamp"
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(_LOOK_S)
        raise SqsStandInError(f"moto's server did not listen within {_START_S:g} s")
