"""The admin routes: what the operator sees; on their own address only."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from proxy.api.http import send_response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.pool import Pool
    from proxy.workers import Worker

__all__ = ["Workers"]


class Workers:
    """`GET /workers`: every worker process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with a list of every worker."""
        now = time.monotonic()
        body = json.dumps([_describe(worker, now) for worker in self._pool.workers]).encode()
        await send_response(scope, send, 200, body, b"application/json")


def _describe(worker: Worker, now: float) -> dict[str, Any]:
    handler = worker.handler
    state = handler.state_name if handler is not None else "spare"
    return {
        "pid": worker.pid,
        "state": "stopping" if worker.stopping else state,
        "job_id": handler.job_id if handler is not None else None,
        "age_s": round(now - worker.born, 3),
        "jobs_done": worker.jobs_done,
    }
