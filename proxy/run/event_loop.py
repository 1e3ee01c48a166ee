"""The front end's event loop: uvloop's, which is asyncio's with the sockets in C and saves a fifth of the work."""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import uvloop

__all__ = ["EventLoop"]

#: As many as libuv has for this. A pool of their own, as look-ups may hang for long, and others wait for the usual one.
_THREADS: Final = 4


class EventLoop(uvloop.Loop):
    """Looks up names in Python's threads, for PostgreSQL and SQS: libuv aborts the process if it can start none."""

    def __init__(self) -> None:
        super().__init__()
        self._look_ups = ThreadPoolExecutor(_THREADS, "look-up")

    async def getaddrinfo(self, host: str | bytes | None, port: str | bytes | int | None, **hints: int) -> list[Any]:
        """Return the addresses of a name. Raises OSError: there are none, or no thread could be started."""
        look_up = partial(socket.getaddrinfo, host, port, **hints)
        try:
            looking = self.run_in_executor(self._look_ups, look_up)
        except RuntimeError as exc:
            raise OSError(errno.EAGAIN, "no more threads can be started") from exc
        return await looking
