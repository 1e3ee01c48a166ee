"""What the fork server and its workers write to stderr: it is logged, like everything else.

None of our code writes there. The interpreter does when it crashes, and libraries that complain. Only the last line of
each piece is logged, which says what it was, without anything that could be a token; operators have no use for a
traceback.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Final, Self

from proxy import log

__all__ = ["WorkerOutput"]

_READ_BYTES: Final = 65_536
_SHOWN: Final = 1_000
#: A callback token, or anything as long in the same alphabet.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{40,}")


class WorkerOutput:
    """A pipe whose write end is the stderr of some processes; it closes when the last of them has exited."""

    def __init__(self) -> None:
        """Create the pipe. Raises OSError if there are no descriptors left."""
        self._loop = asyncio.get_running_loop()
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)  # for them it is blocking: a failed write would be another error

    def __enter__(self) -> Self:
        """Lend the write end to the processes that are started within the block."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close our write end; read until theirs are closed, unless nothing was started."""
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
