"""Records as rows of the table, and back. Times go as seconds from now, as each clock has its own idea of the hour."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.store.fields import failure_of, storable
from proxy.store.record import Record
from shared.lifecycle import State

__all__ = ["COLUMNS", "INSERTED", "UPDATED", "inserted", "operation", "record_of", "updated"]

#: What is sent of a new job, with its types; in the order in which `inserted` has it.
INSERTED: Final = {
    "id": "text", "token_hash": "bytea", "key": "bytea", "fingerprint": "bytea", "origin": "text", "owner": "text",
    "profile": "text", "state": "text", "submitted": "text", "age_s": "float8", "left_s": "float8", "ended_s": "float8",
    "code": "text", "detail": "text", "failure_submitted": "text", "callback": "bytea", "says_failed": "bool",
    "early": "bool", "duplicates": "int4", "outputs": "text", "labels": "text", "refused": "int4", "refusal": "text",
    "content_type": "text", "error": "text", "instance": "text", "worker_end": "text", "cancelled_by": "text",
    "trail": "text", "sent": "bytea",
}  # fmt: skip
#: What is sent of a known one; in the order in which `updated` has it.
UPDATED: Final = {
    "id": "text", "op": "text", "ends": "bool", "state": "text", "ended_s": "float8", "code": "text", "detail": "text",
    "failure_submitted": "text", "callback": "bytea", "says_failed": "bool", "early": "bool", "duplicates": "int4",
    "outputs": "text", "refused": "int4", "refusal": "text", "content_type": "text", "error": "text",
    "worker_end": "text", "cancelled_by": "text", "trail": "text",
}  # fmt: skip
#: What is read; {j} is the table's alias.
COLUMNS: Final = (
    "{j}.id, {j}.token_hash, {j}.key, {j}.fingerprint, {j}.origin, {j}.owner, {j}.profile, {j}.state, "
    "extract(epoch FROM {j}.accepted_at - now())::float8, extract(epoch FROM {j}.deadline_at - now())::float8, "
    "extract(epoch FROM {j}.finished_at - now())::float8, {j}.code, {j}.detail, {j}.failure_submitted, {j}.callback, "
    "{j}.says_failed, {j}.early, {j}.duplicates, {j}.outputs, {j}.labels, {j}.refused, {j}.refusal, "
    "{j}.content_type, {j}.error, {j}.instance, {j}.worker_end, {j}.cancelled_by, {j}.trail, {j}.sent"
)


def operation(record: Record, instance: str) -> str:
    """Return what putting a record is to the row that there is (protocol.py), if there is one."""
    if record.callback is not None:
        return "callback"
    if record.state is not State.FINISHED:
        return "open"
    return "failure" if record.owner == instance else "cancel"


def inserted(record: Record) -> tuple[Any, ...]:
    """Return the values of `INSERTED`."""
    now = time.time()
    failure = record.failure
    return (
        record.id,
        record.token_hash,
        record.key,
        record.fingerprint,
        record.origin,
        record.owner,
        record.profile,
        record.state.value,
        record.submitted.value,
        now - record.accepted_at,
        record.deadline_at - now,
        None if record.finished_at is None else now - record.finished_at,
        failure.code.value if failure else None,
        _text(failure.detail) if failure else "",
        failure.submitted.value if failure else None,
        record.callback,
        record.says_failed,
        record.early,
        record.duplicates,
        _names(record.outputs),
        _names(record.labels),
        record.refused,
        _text(record.refusal),
        _text(record.content_type),
        _text(record.error),
        _text(record.instance),
        record.worker_end,
        _text(record.cancelled_by),
        record.trail,
        record.sent,
    )


def updated(record: Record, op: str) -> tuple[Any, ...]:
    """Return the values of `UPDATED`; `op` is what `operation` says, or `note`."""
    ends = op not in {"note", "open"}
    failure = record.failure if ends else None
    told = record.failure.submitted.value if record.failure and op != "open" else None
    state = record.state.value if record.state is not State.FINISHED else ""
    return (
        record.id,
        op,
        ends,
        state,
        0.0 if record.finished_at is None else time.time() - record.finished_at,
        failure.code.value if failure else None,
        _text(failure.detail) if failure else "",
        told,
        record.callback if op == "callback" else None,
        record.says_failed,
        record.early,
        record.duplicates,
        _names(record.outputs),
        record.refused,
        _text(record.refusal),
        _text(record.content_type),
        _text(record.error),
        record.worker_end,
        _text(record.cancelled_by),
        record.trail,
    )


def record_of(row: Sequence[Any]) -> Record:
    """Return the record that the values of `COLUMNS` are. Raises ValueError if they are none."""
    (
        job_id, token_hash, key, fingerprint, origin, owner, profile, state, accepted_s, left_s, ended_s, code, detail,
        failure_submitted, callback, says_failed, early, duplicates, outputs, labels, refused, refusal, content_type,
        error, instance, worker_end, cancelled_by, trail, sent,
    ) = row  # fmt: skip
    now = time.time()
    return Record(
        id=job_id,
        token_hash=token_hash,
        key=key,
        fingerprint=fingerprint,
        origin=origin,
        owner=owner,
        profile=profile,
        state=State(state),
        accepted_at=now + accepted_s,
        deadline_at=now + left_s,
        finished_at=None if ended_s is None else now + ended_s,
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
    """Return `text` as PostgreSQL can store it: without zeros, too."""
    return storable(text).replace("\0", "\\x00") if text else ""
