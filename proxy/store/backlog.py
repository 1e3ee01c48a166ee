"""Records that could not be written yet, kept until they can be: the newest record of each job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.store.names import Name
    from proxy.store.record import Record

__all__ = ["Backlog"]

#: How much is kept. Beyond that, the oldest records are dropped, or one that is larger by itself. They are counted.
_BYTES: Final = 64 * 1024 * 1024


class Backlog:
    """Records that wait to be written, in the order in which their jobs were last updated."""

    def __init__(self, max_bytes: int = _BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._records: dict[str, Record] = {}
        #: How many records were dropped.
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> dict[str, Record]:
        """Return all records, by job id."""
        return dict(self._records)

    def find(self, column: str, value: str | bytes) -> Record | None:
        """Return the record whose member `column` is `value`, if there is one; the newest if there are several."""
        for record in reversed(self._records.values()):
            if getattr(record, column) == value:
                return record
        return None

    def find_named(self, name: Name) -> Record | None:
        """Return the newest record with this name."""
        return next((record for record in reversed(self._records.values()) if name.is_of(record)), None)

    def add(self, record: Record, *, keep: bool) -> None:
        """Take a record that could not be written.

        One that need not be kept is dropped, unless an older record of the same job is here: that one would be written
        later and replace the newer one.
        """
        if not keep and record.id not in self._records:
            return
        if record.size_bytes > self._max_bytes:
            self.given_up += 1
            return
        old = self._records.pop(record.id, None)
        self._records[record.id] = record
        self._bytes += record.size_bytes - (old.size_bytes if old else 0)
        while self._bytes > self._max_bytes:
            self.given_up += self.pop(next(iter(self._records)))

    def pop(self, job_id: str) -> bool:
        """Remove the record of this job, because a newer one takes its place; return whether there was one."""
        record = self._records.pop(job_id, None)
        self._bytes -= record.size_bytes if record is not None else 0
        return record is not None

    def wrote(self, record: Record) -> None:
        """Remove this record, because it is written after all, unless there is a newer one of its job."""
        if self._records.get(record.id) is record:
            self.pop(record.id)

    def clear(self) -> None:
        """Forget all records, because they are written."""
        self._records.clear()
        self._bytes = 0
