"""Converts records to rows of the table, and back. Where our clock differs from the database's, times are converted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.store.fields import failure_of, storable
from proxy.store.record import Record
from shared.lifecycle import State

__all__ = ["COLUMNS", "COLUMNS_WITHOUT_BODIES", "SAME_CLOCK_S", "VALUES", "operation", "record_of", "values_of"]

#: If our clock differs from the database's by less, it counts as the same. Then a time stays the same to the
#: microsecond, however long a statement and its answer take, and whichever instance reads it.
SAME_CLOCK_S: Final = 1.0
#: The values that are sent for a job, with their types.
VALUES: Final = {
    "id": "text", "token_hash": "bytea", "key": "bytea", "fingerprint": "bytea", "origin": "text", "owner": "text",
    "profile": "text", "state": "text", "submitted": "text", "now": "float8", "accepted_at": "float8",
    "deadline_at": "float8", "finished_at": "float8", "code": "text", "detail": "text", "failure_submitted": "text",
    "callback": "bytea", "says_failed": "bool", "early": "bool", "duplicates": "int8", "outputs": "text",
    "labels": "text", "refused": "int8", "refusal": "text", "content_type": "text", "error": "text",
    "instance": "text", "worker_end": "text", "cancelled_by": "text", "trail": "text", "sent": "bytea",
    "open_state": "text", "me": "text",
}  # fmt: skip
#: The columns that are read; {j} is the table's alias. In a transaction of several statements, such as a long search,
#: `now()` would be the time of the first one.
COLUMNS: Final = (
    "{j}.id, {j}.token_hash, {j}.key, {j}.fingerprint, {j}.origin, {j}.owner, {j}.profile, {j}.state, "
    "extract(epoch FROM statement_timestamp())::float8, extract(epoch FROM {j}.accepted_at)::float8, "
    "extract(epoch FROM {j}.deadline_at)::float8, extract(epoch FROM {j}.finished_at)::float8, "
    "{j}.code, {j}.detail, {j}.failure_submitted, {j}.callback, "
    "{j}.says_failed, {j}.early, {j}.duplicates, {j}.outputs, {j}.labels, {j}.refused, {j}.refusal, "
    "{j}.content_type, {j}.error, {j}.instance, {j}.worker_end, {j}.cancelled_by, {j}.trail, {j}.sent"
)
#: The same, with empty values for those that may be large.
COLUMNS_WITHOUT_BODIES: Final = re.sub(
    r"\{j\}\.(callback|sent)\b", r"CASE WHEN {j}.\1 IS NOT NULL THEN ''::bytea END", COLUMNS
)


def operation(record: Record, instance: str) -> str:
    """Return what putting a record does to the existing row (protocol.py), if there is one."""
    if record.callback is not None:
        return "callback"
    if record.state is not State.FINISHED:
        return "open"
    return "failure" if record.owner == instance else "cancel"


def values_of(record: Record, me: str) -> dict[str, Any]:
    """Return the values that the instance `me` sends for a job, by the names of `VALUES`."""
    failure = record.failure
    return {
        "id": record.id,
        "token_hash": record.token_hash,
        "key": record.key,
        "fingerprint": record.fingerprint,
        "origin": record.origin,
        "owner": record.owner,
        "profile": record.profile,
        "state": record.state.value,
        "submitted": record.submitted.value,
        "now": time.time(),
        "accepted_at": record.accepted_at,
        "deadline_at": record.deadline_at,
        "finished_at": record.finished_at,
        "code": failure.code.value if failure else None,
        "detail": _text(failure.detail) if failure else "",
        "failure_submitted": failure.submitted.value if failure else None,
        "callback": record.callback,
        "says_failed": record.says_failed,
        "early": record.early,
        "duplicates": record.duplicates,
        "outputs": _names(record.outputs),
        "labels": _names(record.labels),
        "refused": record.refused,
        "refusal": _text(record.refusal),
        "content_type": _text(record.content_type),
        "error": _text(record.error),
        "instance": _text(record.instance),
        "worker_end": record.worker_end,
        "cancelled_by": _text(record.cancelled_by),
        "trail": record.trail,
        "sent": record.sent,
        "open_state": "" if record.state is State.FINISHED else record.state.value,
        "me": me,
    }


def record_of(row: Sequence[Any]) -> Record:
    """Return the record with the values of `COLUMNS`. Raises ValueError if they are not valid."""
    (
        job_id, token_hash, key, fingerprint, origin, owner, profile, state, server_now, accepted_at, deadline_at,
        finished_at, code, detail, failure_submitted, callback, says_failed, early, duplicates, outputs, labels,
        refused, refusal, content_type, error, instance, worker_end, cancelled_by, trail, sent,
    ) = row  # fmt: skip
    ahead_s = server_now - time.time()
    if abs(ahead_s) < SAME_CLOCK_S:
        ahead_s = 0.0
    return Record(
        id=job_id,
        token_hash=token_hash,
        key=key,
        fingerprint=fingerprint,
        origin=origin,
        owner=owner,
        profile=profile,
        state=State(state),
        accepted_at=accepted_at - ahead_s,
        deadline_at=deadline_at - ahead_s,
        finished_at=None if finished_at is None else finished_at - ahead_s,
        failure=failure_of(code, detail, failure_submitted),
        callback=callback,
        says_failed=says_failed,
        early=early,
        duplicates=duplicates,
        outputs=json.loads(outputs) if outputs else {},
        labels=json.loads(labels) if labels else {},
        refused=refused,
        refusal=refusal,
        content_type=content_type,
        error=error,
        instance=instance,
        worker_end=worker_end,
        cancelled_by=cancelled_by,
        trail=trail,
        sent=sent,
    )


def _names(values: Mapping[str, str]) -> str:
    return json.dumps(dict(values)) if values else ""


def _text(text: str) -> str:
    """Return `text` as PostgreSQL can store it, which includes no NUL characters."""
    return storable(text).replace("\0", "\\x00") if text else ""
