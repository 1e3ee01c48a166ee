"""Jobs as JSON for operators. Times are Unix times in seconds; names of durations end in `_ms`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from proxy.api.operators.job_filters import cursor_of
from proxy.store.query import code_of
from shared.outcome import Failed

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from proxy.store.query import Counts, JobPage, Sort
    from proxy.store.record import Record

__all__ = ["line", "page_document"]


def line(record: Record, now: float, job: Job | None = None) -> dict[str, Any]:
    """Return a job for a list; `job`: the same job in flight here, which may be ahead of its record, or behind."""
    if job is not None:  # its end may be on record before its client has the answer
        record = replace(record, finished_at=None, failure=None, callback=None, says_failed=False, error="")
    state = record.state if job is None else job.state
    code = code_of(record)
    told = record.failure or record.outcome
    return {
        "job_id": record.id,
        "state": str(state),
        "outcome": code or (None if record.finished_at is None else "succeeded"),
        "code": code,
        "submitted": str(record.submitted if job is None else job.submitted),
        "late": record.late,
        "detail": told.detail if isinstance(told, Failed) else "",
        "error": record.error or None,
        "accepted_at": round(record.accepted_at, 3),
        "deadline_at": round(record.deadline_at, 3),
        "finished_at": None if record.finished_at is None else round(record.finished_at, 3),
        "total_ms": round(record.took_s(now) * 1000, 1),
        "labels": dict(record.labels),
        "profile": record.profile,
        "remote_id": record.outputs.get("id"),
        "instance": record.instance or record.owner or None,
        "worker_end": record.worker_end or None,
        "cancelled_by": record.cancelled_by or None,
    }


def page_document(lines: list[dict[str, Any]], page: JobPage, sort: Sort, counts: Counts | None) -> dict[str, Any]:
    """Return a page of a list, with its jobs as `lines`; `counts`: None if they are not wanted."""
    return {
        "jobs": lines,
        "complete": page.searched_to is None,
        "searched_to": page.searched_to,
        "looked_at": page.looked_at,
        "next": None if page.next is None else cursor_of(page.next, sort),
        "counts": None if counts is None else _counts_document(counts),
    }


def _counts_document(counts: Counts) -> dict[str, Any]:
    """Return how many jobs there are of each kind."""
    return {
        "total": counts.total,
        "complete": counts.counted_to is None,
        "counted_to": counts.counted_to,
        **counts.facets(),
        "labels": counts.label_facets(),
    }
