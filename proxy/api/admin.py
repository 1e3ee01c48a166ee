"""The admin routes: what the operator sees; on their own address only."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from proxy.api.http import send_response
from proxy.live_metrics import worker_state
from proxy.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.metrics import Metrics
    from proxy.pool import Pool
    from proxy.workers import Worker

__all__ = ["MetricsPage", "Workers"]


class Workers:
    """`GET /workers`: every worker process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with a list of every worker."""
        now = time.monotonic()
        body = json.dumps([_describe(worker, now) for worker in self._pool.workers]).encode()
        await send_response(scope, send, 200, body, b"application/json")


class MetricsPage:
    """`GET /metrics`: everything that is counted, as Prometheus reads it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the metrics as they are now."""
        await send_response(scope, send, 200, self._metrics.text(), CONTENT_TYPE)


def _describe(worker: Worker, now: float) -> dict[str, Any]:
    handler = worker.handler
    return {
        "pid": worker.pid,
        "state": worker_state(worker),
        "job_id": handler.job_id if handler is not None else None,
        "age_s": round(now - worker.born, 3),
        "jobs_done": worker.jobs_done,
    }
