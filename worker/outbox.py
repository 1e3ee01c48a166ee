"""A worker's outbox: the pipe through which it reports; the front end reads it (shared/frames.py)."""

from __future__ import annotations

import os

from shared.frames import frame

__all__ = ["Outbox"]


class Outbox:
    """The write end of a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor of the write end."""
        return self._fd

    def send_bytes(self, payload: bytes) -> None:
        """Write one message; wait if the pipe is full. Raises BrokenPipeError if the front end is gone."""
        data = frame(payload)
        while data:
            data = data[os.write(self._fd, data) :]
