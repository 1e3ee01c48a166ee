"""A worker's outbox: the pipe through which it reports; the front end reads it (shared/frames.py)."""

from __future__ import annotations

import os

from shared.frames import frame

__all__ = ["Outbox"]


class Outbox:
    """The writing end of a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor that is written to."""
        return self._fd

    def send_bytes(self, payload: bytes) -> None:
        """Write one message; wait where the pipe is full. Raises BrokenPipeError when the front end is gone."""
        data = frame(payload)
        while data:
            data = data[os.write(self._fd, data) :]
