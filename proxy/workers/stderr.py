"""Logs what the fork server and its workers write to stderr, or to stdout, which is the same here.

None of our code writes there, only the interpreter when it crashes, and libraries that complain. Only the last line of
each piece is logged, which names the error, without anything that could be a token; operators have no use for a
traceback. A worker that writes without end has to wait, so that it does not fill the log.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from proxy import log

__all__ = ["log_output"]

_READ_BYTES: Final = 65_536
#: How much is read at most. Only a worker that never ends to write comes near it.
_BYTES_PER_S: Final = 131_072


def log_output(fd: int) -> None:
    """Log what comes out of the pipe `fd`, which must not block, until it ends; then close it."""
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(fd)
            os.close(fd)
            return
        loop.remove_reader(fd)
        loop.call_later(len(data) / _BYTES_PER_S, loop.add_reader, fd, on_readable)
        lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
        if lines:
            words = log.shown(lines[-1].strip())
            log.event("error", "a worker process wrote to stderr", source="worker", text=words, lines=len(lines))

    loop.add_reader(fd, on_readable)
