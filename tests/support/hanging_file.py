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
    """Carries out calls, but not before the test allows it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._goes_on = threading.Event()
        self._goes_on.set()
        #: Set when a call waits for the disk.
        self.hangs = threading.Event()
        #: The records that were written, by batch.
        self.written: list[list[Record]] = []

    def hang(self) -> None:
        """Let all calls hang from now on."""
        self.hangs.clear()
        self._goes_on.clear()

    def go_on(self) -> None:
        """Carry out the waiting calls."""
        self._goes_on.set()

    def write(self, records: Iterable[Record]) -> None:
        """Write, once it is allowed."""
        batch = list(records)
        self._wait()
        super().write(batch)
        self.written.append(batch)

    def find(self, column: str, value: str | bytes, finished_after: float) -> Record | None:
        """Look up, once it is allowed."""
        self._wait()
        return super().find(column, value, finished_after)

    def unfinished(self) -> list[Record]:
        """List, once it is allowed."""
        self._wait()
        return super().unfinished()

    def expire(self, finished_before: float, at_most: int) -> int:
        """Delete, once it is allowed."""
        self._wait()
        return super().expire(finished_before, at_most)

    def _wait(self) -> None:
        if not self._goes_on.is_set():
            self.hangs.set()
            assert self._goes_on.wait(_IN_VAIN_S), "nobody lets the disk go on"
