"""What is recorded: the records of a batch become rows, each if what the table has allows it (protocol.py).

Of several records of one job in a batch only the last is written, since it says everything. New jobs are one INSERT,
what is learnt of known ones is one UPDATE. Both skip the rows whose expectation does not hold; for those, what the
table has is read, and tells whether it is there already (an earlier try whose answer was lost), has to be written in
another way (a job that was thought to be new, or known, and is not), or excludes what was put.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.store.postgresql.orders import fail, settle
from proxy.store.postgresql.rows import INSERTED, UPDATED, inserted, operation, record_of, updated
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import FIND, INSERT, RELEASE, UPDATE
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted

__all__ = ["NOTE", "Put", "Writer"]

NOTE: Final = "note"
#: A row can change between the attempt to write it and the look at it, but hardly so often.
_ROUNDS: Final = 5
#: What a column of PostgreSQL takes is 1 GB, and so is a whole statement with everything around.
_MAX_BYTES: Final = 512 * 1024 * 1024


@dataclass(eq=False, slots=True, kw_only=True)
class Put:
    """Record this."""

    record: Record
    #: Only what adds to the record counts.
    is_note: bool = False
    keep: bool
    #: By the monotonic clock.
    until: float
    done: asyncio.Future[None]

    @property
    def size_bytes(self) -> int:
        """About how much is sent for it."""
        return self.record.size_bytes


class Writer:
    """Writes batches of records over one session or another."""

    def __init__(self, instance: str, ttl_s: float) -> None:
        """Write as `instance`, which forgets finished jobs after `ttl_s`."""
        self._instance = instance
        self._ttl_s = ttl_s
        #: Open jobs that are in the table, as this instance has written them.
        self.known: set[str] = set()
        #: Records written, and those that what was there excluded.
        self.written = self.fenced = 0

    async def write(self, session: Session, puts: list[Put]) -> None:
        """Write the records of a batch and settle its orders; called again with the same after a GoneError."""
        last = {put.record.id: put for put in puts}
        for put in last.values():
            if put.size_bytes > _MAX_BYTES:
                raise UnfitError(f"a result of {put.size_bytes} bytes is too large")
        todo = dict(last)
        ways = {job_id: self._way(put) for job_id, put in todo.items()}
        taken: dict[str, Record] = {}
        for _ in range(_ROUNDS):
            done = await self._insert(session, [put.record for i, put in todo.items() if ways[i] == "insert"])
            done |= await self._update(
                session, [(put.record, ways[i]) for i, put in todo.items() if ways[i] != "insert"]
            )
            self.written += len(done)
            for job_id in done:
                self._learn(todo.pop(job_id).record)
            if not todo:
                break
            await self._look_closer(session, todo, ways, taken)
        else:
            raise GoneError("the jobs in the database change too often")
        for put in puts:
            holds = taken.get(put.record.id)
            if holds is None:
                settle(put.done)
            else:
                fail(put.done, TakenError(holds))

    def _way(self, put: Put) -> str:
        """Return how to begin: `insert` or the operation of an update."""
        if put.is_note:
            return NOTE
        op = operation(put.record, self._instance)
        return "insert" if op == "open" and put.record.id not in self.known else op

    def _learn(self, record: Record) -> None:
        if record.state is State.FINISHED:
            self.known.discard(record.id)
        else:
            self.known.add(record.id)

    async def _insert(self, session: Session, records: list[Record]) -> set[str]:
        records.sort(key=lambda record: (record.key or b"", record.id))
        return await _send(session, INSERT, [inserted(record) for record in records], len(INSERTED), records)

    async def _update(self, session: Session, records: list[tuple[Record, str]]) -> set[str]:
        rows = [updated(record, op) for record, op in records]
        return await _send(session, UPDATE, rows, len(UPDATED), [record for record, _ in records], self._instance)

    async def _look_closer(
        self, session: Session, todo: dict[str, Put], ways: dict[str, str], taken: dict[str, Record]
    ) -> None:
        """Decide about rows that were skipped: they leave `todo`, or have another way."""
        rows = {row.id: row for row in await self._find(session, "id", todo)}
        keys = [put.record.key for job_id, put in todo.items() if job_id not in rows and put.record.key is not None]
        holders = {row.key: row for row in await self._find(session, "key", keys)}
        for job_id, put in list(todo.items()):
            there, record = rows.get(job_id), put.record
            holder = holders.get(record.key)
            if there is None and holder is not None and _holds_key(holder):
                self._exclude(todo.pop(job_id), holder, taken)
            elif there is None:
                ways[job_id] = "insert"
            elif self._is_there(put, there):
                if record.state is there.state and _adds(record, there):
                    ways[job_id] = NOTE
                else:
                    self._learn(todo.pop(job_id).record)
            elif ways[job_id] == "insert" and self._may_update(record, there):
                ways[job_id] = NOTE if put.is_note else operation(record, self._instance)
            elif put.is_note:
                ways[job_id] = NOTE
            else:
                self._exclude(todo.pop(job_id), there, taken)
        if keys:
            await session.run(RELEASE, sorted(keys), self._ttl_s)

    def _exclude(self, put: Put, holds: Record, taken: dict[str, Record]) -> None:
        self.fenced += 1
        self.known.discard(put.record.id)
        taken[put.record.id] = holds

    def _is_there(self, put: Put, there: Record) -> bool:
        """Whether the row has what is put already: an earlier try was carried out, and its answer was lost."""
        record = put.record
        match operation(record, self._instance):
            case "callback":
                return there.callback == record.callback and there.says_failed == record.says_failed
            case "failure":
                return there.state is State.FINISHED and _same_end(there, record) and there.callback is None
            case "cancel":
                return there.failure is not None and there.failure.code is Code.CANCELLED and there.callback is None
            case _:
                mine = there.owner == record.owner and there.state is not State.FINISHED
                return mine and there.state.value >= record.state.value  # by their letters, as in the statement

    def _may_update(self, record: Record, there: Record) -> bool:
        """Whether the update that a record is would not be skipped."""
        match operation(record, self._instance):
            case "callback":
                return there.callback is None
            case "cancel":
                return there.state is not State.FINISHED
            case _:
                return there.state is not State.FINISHED and there.owner == self._instance

    async def _find(self, session: Session, column: str, values: Iterable[Any]) -> list[Record]:
        wanted = list(values)
        if not wanted:
            return []
        return [record_of(row) for row in await session.run(FIND[column], wanted, self._ttl_s)]


async def _send(
    session: Session, sql: str, rows: list[tuple[Any, ...]], columns: int, records: Sequence[Record], *rest: str
) -> set[str]:
    """Carry a statement out for these rows; return the ids of those that were written."""
    if not rows:
        return set()
    size = sum(record.size_bytes for record in records)
    arrays = [[row[column] for row in rows] for column in range(columns)]
    return {row[0] for row in await session.run(sql, *arrays, *rest, size_bytes=size)}


def _holds_key(record: Record) -> bool:
    """Whether nobody else may begin a job with this one's key."""
    return not (record.state is State.FINISHED and record.submitted is Submitted.NO)


def _same_end(there: Record, record: Record) -> bool:
    """Whether both say the same of how the job ended; one of them may know more of whether it was submitted."""
    return there.failure is not None and there.proven().failure == record.proven().failure


def _adds(record: Record, there: Record) -> bool:
    """Whether a record knows more than the row beside its end."""
    return (
        (record.submitted is Submitted.YES and there.submitted is not Submitted.YES)
        or record.duplicates > there.duplicates
        or record.refused > there.refused
        or bool(record.error and record.error != there.error)
        or bool(record.outputs and record.outputs != there.outputs)
    )
