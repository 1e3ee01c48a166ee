"""Patterns over many jobs: what failures have in common, and where the time goes."""

from __future__ import annotations

import asyncio
import bisect
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proxy.api.operators.job_documents import line
from proxy.api.operators.job_filters import FILTERS, LABEL, age_of, filters_of
from proxy.api.operators.parameters import parameters, single_values
from proxy.http.asgi import send_json
from proxy.jobs.trail import PHASES, phases_in, written
from proxy.store.patterns import EDGES_MS, Grid
from proxy.store.query import Sort, within
from shared.errors import ParameterError
from shared.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Scope, Send

    from proxy.api.clients.request_headers import Authorization
    from proxy.store.patterns import FailureGroup, Patterns
    from proxy.store.protocol import JobStore
    from proxy.store.query import JobPage, JobQuery

__all__ = ["JobPatterns"]

_DAY_S: Final = 86_400.0
_BUCKETS: Final = 48
_MOST_BUCKETS: Final = 200
_SLOWEST: Final = 10
_FAILURES: Final = 100
#: How many of the newest jobs are looked at for their phases.
_SAMPLE: Final = 1_000
#: How many of them in one turn of the event loop.
_AT_ONCE: Final = 100
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class JobPatterns:
    """`GET /jobs/patterns`: groups of similar failures, the slowest jobs, and where the time went."""

    def __init__(self, store: JobStore, authorization: Authorization, labels: Sequence[str]) -> None:
        """`labels`: the names of labels; failures are grouped by the first one unless the request names another."""
        self._store = store
        self._authorization = authorization
        self._label = labels[0] if labels else ""

    async def __call__(self, scope: Scope, _receive: object, send: Send) -> None:
        """Answer with the patterns."""
        now = time.time()
        given = single_values(parameters(scope), (*FILTERS, "bucket", "by"), LABEL)
        query = filters_of(given, self._authorization.holders, now)
        grid = _grid(query, given.get("bucket", ""), now)
        found = await self._store.patterns(query, grid, given.get("by") or self._label)
        ended = replace(within(query, grid.since, grid.until), states=query.states or frozenset({State.FINISHED}))
        slowest = await self._store.jobs(ended, sort=Sort.SLOWEST, limit=_SLOWEST)
        sample = await self._store.jobs(ended, sort=Sort.NEWEST, limit=_SAMPLE)
        document = {
            **_counted(found),
            "slowest": [line(record, now) for record in slowest.records],
            "slowest_complete": slowest.searched_to is None,
            "slowest_to": slowest.searched_to,
            "slowest_of": slowest.looked_at,
            "phases": await _phases(sample),
            "latency": {"edges_ms": EDGES_MS, "counts": found.latency},
        }
        await send_json(scope, send, document)


def _grid(query: JobQuery, bucket: str, now: float) -> Grid:
    until = now if query.until is None else query.until
    since = until - _DAY_S if query.since is None else query.since
    if since >= until:
        raise ParameterError("since", "`since` is not in the past")
    bucket_s = max(1.0, (until - since) / _BUCKETS) if not bucket else age_of(bucket)
    if bucket_s is None or bucket_s < 1:
        raise ParameterError("bucket", f"`bucket` is {bucket!r}, takes whole seconds or an age (90s, 15m, 2h, 7d)")
    buckets = max(1, -int(-(until - since) // bucket_s))
    if buckets > _MOST_BUCKETS:
        raise ParameterError("bucket", f"`bucket` makes {buckets} of this range, and {_MOST_BUCKETS} is the limit")
    return Grid(since=since, bucket_s=bucket_s, buckets=buckets)


def _counted(found: Patterns) -> dict[str, Any]:
    grid = found.grid
    groups = sorted(found.failures.items(), key=lambda one: one[1].count, reverse=True)
    return {
        "since": round(grid.since, 3),
        "until": round(grid.until, 3),
        "bucket_s": grid.bucket_s,
        "buckets": grid.buckets,
        "jobs": found.jobs,
        "complete": found.searched_to is None,
        "searched_to": found.searched_to,
        "over_time": {"ended": found.ended, "failed": found.failed},
        "by": found.label or None,
        "failures": [_group(alike, group, grid.buckets) for alike, group in groups[:_FAILURES]],
        "failures_complete": found.failures_to is None,
        "failures_to": found.failures_to,
    }


def _group(alike: tuple[str, str, str], group: FailureGroup, buckets: int) -> dict[str, Any]:
    code, words, label = alike
    return {
        "code": code,
        "words": words,
        "label": label or None,
        "count": group.count,
        "submitted": dict(group.submitted),
        "first_at": round(group.first_at, 3),
        "last_at": round(group.last_at, 3),
        "over_time": [group.over_time[bucket] for bucket in range(buckets)],
        "example": group.example,
    }


async def _phases(sample: JobPage) -> dict[str, Any]:
    """Return how long the phases of some jobs took. Records of earlier versions have no phases."""
    took: dict[str, list[float]] = {name: [] for name in (*PHASES, "total")}
    for number, record in enumerate(sample.records, start=1):
        total_ms = record.took_s(record.accepted_at) * 1000
        phases = phases_in(written(record.trail), total_ms)
        for name, phase_ms in phases.items():
            took[name].append(phase_ms)
        if phases:
            took["total"].append(total_ms)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    lists = {name: sorted(times) for name, times in took.items() if times}
    return {
        "jobs": len(took["total"]),
        "sampled": sample.next is not None,
        "quantiles_ms": {name: _quantiles(times) for name, times in lists.items()},
        "histogram": {"edges_ms": EDGES_MS, "counts": {name: _histogram(times) for name, times in lists.items()}},
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    found = {name: times[min(len(times) - 1, int(share * len(times)))] for name, share in _QUANTILES.items()}
    return {name: round(value, 1) for name, value in (found | {"max": times[-1]}).items()}


def _histogram(times: list[float]) -> list[int]:
    counts = [0] * (len(EDGES_MS) + 1)
    for took_ms in times:
        counts[bisect.bisect_right(EDGES_MS, took_ms)] += 1
    return counts
