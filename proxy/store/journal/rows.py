"""A record as a row of the journal's table, and back."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Final

from proxy.store.fields import failure_of, storable
from proxy.store.record import Record
from shared.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLUMNS", "COLUMN_NAMES", "put_statement", "record_of", "row_of"]

#: These columns never change once they are set; the others are written each time.
_FIXED: Final = ("id", "token_hash", "key", "fingerprint", "accepted_at", "deadline_at", "profile", "sent")
_CHANGING: Final = (
    "state", "submitted", "finished_at", "code", "detail", "failure_submitted", "callback", "says_failed", "early",
    "duplicates", "remote", "worker_end", "cancelled_by", "trail",
)  # fmt: skip
#: The contents of the column `remote`, for missing values.
_REMOTE: Final[tuple[Any, ...]] = ({}, "", "", {}, 0, "")
COLUMN_NAMES: Final = _FIXED + _CHANGING
COLUMNS: Final = ", ".join(COLUMN_NAMES)


@functools.cache
def put_statement(rows: int) -> str:
    """Return the statement that writes this many rows, replacing earlier ones with the same ids."""
    row = f"({', '.join('?' * len(_FIXED + _CHANGING))})"
    changes = ", ".join(f"{name} = excluded.{name}" for name in _CHANGING)
    return (
        f"INSERT INTO jobs ({COLUMNS}) VALUES {', '.join([row] * rows)} "  # noqa: S608 - our own names
        f"ON CONFLICT (id) DO UPDATE SET {changes}"
    )


def row_of(record: Record) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`."""
    failure = record.failure
    return (
        record.id,
        record.token_hash,
        record.key,
        record.fingerprint,
        record.accepted_at,
        record.deadline_at,
        record.profile,
        record.sent,
        str(record.state),
        str(record.submitted),  # never read back; for people and programs that read the file directly
        record.finished_at,
        str(failure.code) if failure else None,
        storable(failure.detail) if failure else None,
        str(failure.submitted) if failure else None,
        record.callback,
        record.says_failed,
        record.early,
        record.duplicates,
        _remote(record),
        record.worker_end or None,
        storable(record.cancelled_by) if record.cancelled_by else None,
        record.trail or None,
    )


def record_of(row: Sequence[Any]) -> Record:
    """Return the record of the values of `COLUMNS`. Raises ValueError if they are invalid."""
    fixed = dict(zip(_FIXED, row, strict=False))
    (
        state, _, finished_at, code, detail, failure_submitted, callback, says_failed, early, duplicates, remote,
        worker_end, cancelled_by, trail,
    ) = row[len(_FIXED) :]  # fmt: skip
    rest: list[Any] = json.loads(remote) if remote else []
    outputs, content_type, error, labels, refused, refusal = [*rest, *_REMOTE[len(rest) :]]
    return Record(
        **fixed,
        state=State(state),
        finished_at=finished_at,
        failure=failure_of(code, detail, failure_submitted),
        callback=callback,
        says_failed=bool(says_failed),
        early=bool(early),
        duplicates=duplicates,
        outputs=outputs,
        content_type=content_type,
        error=error,
        labels=labels,
        refused=refused,
        refusal=refusal,
        worker_end=worker_end or "",
        cancelled_by=cancelled_by or "",
        trail=trail or "",
    )


def _remote(record: Record) -> str | None:
    """Return the job server's outputs, and the job's names for people, in one column: few jobs have all of it."""
    values = [
        dict(record.outputs), record.content_type, storable(record.error), dict(record.labels), record.refused,
        record.refusal,
    ]  # fmt: skip
    return json.dumps(values) if any(values) else None
