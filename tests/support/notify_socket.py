"""Stands in for a service manager: the socket that NOTIFY_SOCKET names, and its messages."""

from __future__ import annotations

import contextlib
import socket
import uuid
from pathlib import Path
from typing import Self

__all__ = ["NotifySocket"]


class NotifySocket:
    """A datagram socket with a name; closed at the end of the `with` block."""

    def __init__(self, folder: Path | None = None) -> None:
        """A file in `folder`, whose path has to be short; None: a name in the abstract namespace."""
        name = f"notify-{uuid.uuid4().hex[:8]}"
        self.name = str(folder / name) if folder is not None else f"@{name}"
        #: Every message that was received so far.
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.name if folder is not None else f"\0{name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def received(self) -> list[str]:
        """Receive new messages, and return all messages so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._socket.recv(65_536).decode())
        return self.messages

    def count(self, message: str) -> int:
        """Return how many messages so far have this line."""
        return sum(message in one.splitlines() for one in self.received())
