"""What the fork server and its workers write to their stderr: it comes out through the log, like everything else.

Nothing of ours writes there. What does is the interpreter on its way down, or a library that complains. Of each piece
the last line is logged, which says what it was, without all that could be a token; a traceback is no use to whoever
runs the proxy.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Final, Self

from proxy import log

__all__ = ["WorkerOutput"]

_READ_BYTES: Final = 65_536
_SHOWN: Final = 300
#: A callback token, or anything as long of the same alphabet.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{40,}")


class WorkerOutput:
    """A pipe whose writing end is some processes' stderr; ends when the last of them has."""

    def __init__(self) -> None:
        """Make the pipe. Raises OSError if there are no descriptors left."""
        self._loop = asyncio.get_running_loop()
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)  # theirs: a write that fails would be an error of its own

    def __enter__(self) -> Self:
        """Lend the writing end to the processes that are started within the block."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close our writing end; read until theirs are closed, unless nothing was started."""
        os.close(self.write_fd)
        if exc_info[0] is None:
            self._loop.add_reader(self._read_fd, self._on_readable)
        else:
            os.close(self._read_fd)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._read_fd)
            os.close(self._read_fd)
            return
        lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
        if lines:
            words = _TOKEN.sub("…", lines[-1].strip())[:_SHOWN]
            log.event("error", "a worker process wrote to stderr", source="worker", text=words, lines=len(lines))
