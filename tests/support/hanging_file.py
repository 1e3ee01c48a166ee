"""A journal's file on a disk that hangs when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from proxy.store.journal.file import JournalFile
from proxy.store.record import Record

__all__ = ["HangingFile"]

_IN_VAIN_S: Final = 60.0


class HangingFile(JournalFile):
    """Does what it is asked, but no sooner than it may."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._goes_on = threading.Event()
        self._goes_on.set()
        #: Set when something waits for the disk.
        self.hangs = threading.Event()
        #: What was written, batch by batch.
        self.written: list[list[Record]] = []

    def hang(self) -> None:
        """Let everything wait from now on."""
        self.hangs.clear()
        self._goes_on.clear()

    def go_on(self) -> None:
        """Let everything happen that waits."""
        self._goes_on.set()

    def write(self, records: Iterable[Record]) -> None:
        """Write, some time."""
        batch = list(records)
        self._wait()
        super().write(batch)
        self.written.append(batch)

    def find(self, column: str, value: str | bytes, finished_after: float) -> Record | None:
        """Look up, some time."""
        self._wait()
        return super().find(column, value, finished_after)

    def unfinished(self) -> list[Record]:
        """List, some time."""
        self._wait()
        return super().unfinished()

    def expire(self, finished_before: float, at_most: int) -> int:
        """Forget, some time."""
        self._wait()
        return super().expire(finished_before, at_most)

    def _wait(self) -> None:
        if not self._goes_on.is_set():
            self.hangs.set()
            assert self._goes_on.wait(_IN_VAIN_S), "nobody lets the disk go on"
