"""Writes the records of a batch as rows, each only if the row in the table allows it (protocol.py).

If a batch has several records of one job, only the last is written, since each record is complete. All rows of a batch
are one transaction: first the new jobs, then updates of known ones. A row whose condition does not hold is skipped.
Then the stored row is read. Either it has what was put already (an earlier attempt whose answer was lost), or the
record has to be written in another way (the job was wrongly thought to be new, or known), or the row excludes the
record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.store.postgresql.look_ups import find_whole
from proxy.store.postgresql.orders import fail, settle
from proxy.store.postgresql.rows import operation, values_of
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import PUTS, RELEASE
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted

__all__ = ["NOTE", "Put", "Writer"]

NOTE: Final = "note"
_INSERT: Final = "insert"
#: The ways after which the row is the same as the record, unless another instance has ended or taken over the job.
_COMPLETE: Final = (_INSERT, "callback", "failure")
#: A row can change between the attempt to write it and the look at it, but hardly this often.
_ROUNDS: Final = 5
#: PostgreSQL's limit is 1 GB, for a value and for a whole statement.
_MAX_BYTES: Final = 512 * 1024 * 1024


@dataclass(eq=False, slots=True, kw_only=True)
class Put:
    """An order to record this."""

    record: Record
    #: Whether only additions to the stored record are written (`JobStore.note`).
    is_note: bool = False
    keep: bool
    #: By the monotonic clock.
    until: float
    done: asyncio.Future[None]
    #: How often it was tried to write this, or an earlier record of the job that waited in the backlog.
    attempts: int = 0

    @property
    def size_bytes(self) -> int:
        """About how much is sent for it."""
        return self.record.size_bytes


class Writer:
    """Writes batches of records over a given session."""

    def __init__(self, instance: str, ttl_s: float, *, on_second_result: Callable[[Record], None]) -> None:
        """Write as `instance`, which forgets finished jobs after `ttl_s`.

        `on_second_result` gets the stored record of a job whose client may have got another result here.
        """
        self._instance = instance
        self._ttl_s = ttl_s
        self._on_second_result = on_second_result
        #: Open jobs that this instance has written to the table.
        self.known: set[str] = set()
        #: Records that were written, and records that were excluded by stored ones.
        self.written = self.fenced = 0

    async def write(self, session: Session, puts: list[Put]) -> dict[str, Record]:
        """Write the records of a batch and settle its orders; called again with the same batch after a GoneError.

        Return, by id, the records whose rows are now the same as what was put, so that they need not be read.
        """
        last = {put.record.id: put for put in puts}
        for put in last.values():
            put.attempts += 1
            if put.size_bytes > _MAX_BYTES:
                raise UnfitError(f"a result of {put.size_bytes} bytes is too large")
        todo = dict(last)
        ways = {job_id: self._way(put) for job_id, put in todo.items()}
        taken: dict[str, Record] = {}
        alike: dict[str, Record] = {}
        for _ in range(_ROUNDS):
            done = await self._send(session, [put.record for put in todo.values()], ways)
            self.written += len(done)
            for job_id, (owner, code) in done.items():
                record = todo.pop(job_id).record
                if ways[job_id] != NOTE:  # a note may be written after the end of its job
                    self._learn(record)
                if ways[job_id] in _COMPLETE and owner == record.owner and code == _code_of(record):
                    alike[job_id] = record
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
        return alike

    def _way(self, put: Put) -> str:
        """Return which statement to try first: an insert, or an update."""
        op = operation(put.record, self._instance)
        is_new = op == "open" and put.record.id not in self.known
        if put.is_note and not (is_new and put.record.state is State.ACCEPTED):  # such a note may be all that is known
            return NOTE
        return _INSERT if is_new else op

    def forget(self, job_id: str) -> None:
        """Note that a job is not open here any more, whichever instance has recorded its end."""
        self.known.discard(job_id)

    def _learn(self, record: Record) -> None:
        if record.state is State.FINISHED:
            self.known.discard(record.id)
        else:
            self.known.add(record.id)

    async def _send(
        self, session: Session, records: list[Record], ways: dict[str, str]
    ) -> dict[str, tuple[str, str | None]]:
        """Write the rows whose conditions hold; return the owner and the failure's code of each, by the job's id.

        New jobs come first, sorted by key, then the others, sorted by id. So two instances never deadlock: one that
        waits for a row to update has inserted all of its own.
        """
        new = sorted(
            (each for each in records if ways[each.id] == _INSERT), key=lambda each: (each.key or b"", each.id)
        )
        known = sorted((each for each in records if ways[each.id] != _INSERT), key=lambda each: each.id)
        rows = new + known
        statements = []
        for record in rows:
            put = PUTS[ways[record.id]]
            statements.append((put.sql, put.parameters(values_of(record, self._instance))))
        answers = await session.run_all(statements, size_bytes=sum(record.size_bytes for record in rows))
        return {record.id: answer[0] for record, answer in zip(rows, answers, strict=True) if answer}

    async def _look_closer(
        self, session: Session, todo: dict[str, Put], ways: dict[str, str], taken: dict[str, Record]
    ) -> None:
        """Decide about records that were skipped: they leave `todo`, or are tried in another way."""
        rows = {row.id: row for row in await find_whole(session, "id", todo, self._ttl_s)}
        keys = [put.record.key for job_id, put in todo.items() if job_id not in rows and put.record.key is not None]
        holders = {row.key: row for row in await find_whole(session, "key", keys, self._ttl_s)}
        for job_id, put in list(todo.items()):
            there, record = rows.get(job_id), put.record
            holder = holders.get(record.key)
            if there is None and holder is not None and _holds_key(holder):
                self._exclude(todo.pop(job_id), holder, taken)
            elif there is None:
                ways[job_id] = _INSERT
            elif self._is_there(put, there):
                if record.state is there.state and _adds(record, there):
                    ways[job_id] = NOTE
                else:
                    self._learn(todo.pop(job_id).record)
            elif ways[job_id] == _INSERT and self._may_update(record, there):
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
        if put.attempts > 1 and put.record.callback is not None:
            self._on_second_result(holds)

    def _is_there(self, put: Put, there: Record) -> bool:
        """Whether the row has what is put already: an earlier attempt was executed, and its answer was lost."""
        record = put.record
        match operation(record, self._instance):
            case "callback":
                may_be_ours = put.attempts > 1  # otherwise, the same callback came to another instance, too
                return may_be_ours and there.callback == record.callback and there.says_failed == record.says_failed
            case "failure":
                return there.state is State.FINISHED and _same_end(there, record) and there.callback is None
            case "cancel":
                return there.failure is not None and there.failure.code is Code.CANCELLED and there.callback is None
            case _:
                mine = there.owner == record.owner and there.state is not State.FINISHED
                return mine and there.state.value >= record.state.value  # in alphabetical order, as in the statement

    def _may_update(self, record: Record, there: Record) -> bool:
        """Whether the row meets the condition of this record's update."""
        match operation(record, self._instance):
            case "callback":
                return there.callback is None
            case "cancel":
                return there.state is not State.FINISHED
            case _:
                return there.state is not State.FINISHED and there.owner == self._instance


def _code_of(record: Record) -> str | None:
    return record.failure.code.value if record.failure is not None else None


def _holds_key(record: Record) -> bool:
    """Whether this job's key is not free."""
    return not (record.state is State.FINISHED and record.submitted is Submitted.NO)


def _same_end(there: Record, record: Record) -> bool:
    """Whether both have the same failure; only one of them may know that the job was submitted."""
    return there.failure is not None and there.proven().failure == record.proven().failure


def _adds(record: Record, there: Record) -> bool:
    """Whether a record has additions to the row, other than its end."""
    return (
        (record.submitted is Submitted.YES and there.submitted is not Submitted.YES)
        or record.duplicates > there.duplicates
        or record.refused > there.refused
        or bool(record.error and record.error != there.error)
        or bool(record.outputs and record.outputs != there.outputs)
    )
