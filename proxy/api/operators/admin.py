"""The admin routes: what operators see; only on their own address, and only under its own names.

A stranger's page can make its own domain point to this address while an operator's browser has it open (DNS rebinding).
To the browser, everything it then reads here belongs to that page. The name in `Host` reveals it.
"""

from __future__ import annotations

import ipaddress
import json
import time
from typing import TYPE_CHECKING, Any

from proxy.http.asgi import header, send_response
from proxy.observe.counters import CONTENT_TYPE
from proxy.observe.gauges import worker_state
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from proxy.observe.counters import Metrics
    from proxy.workers.pool import Pool
    from proxy.workers.worker import Worker

__all__ = ["MetricsPage", "OwnNames", "Workers"]


class OwnNames:
    """Accepts only requests for an IP address, or for a name that no stranger can point here."""

    def __init__(self, app: ASGIApp, admin_host: str) -> None:
        """`app` has the routes; `admin_host` is the name or address that it is bound to."""
        self._app = app
        self._admin_host = admin_host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Raises RequestError if its `Host` is not one of ours."""
        if scope["type"] == "http" and not self._is_ours(header(scope, b"host")):
            raise RequestError(
                Code.FORBIDDEN, "the admin address only answers under ADMIN_HOST, localhost and IP addresses"
            )
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower()
        if "." not in name or name == self._admin_host:  # a name without a dot is local, like localhost
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Workers:
    """`GET /workers`: every worker process, with its pid, state, job, age and number of finished jobs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with a list of every worker."""
        now = time.monotonic()
        body = json.dumps([_describe(worker, now) for worker in self._pool.workers]).encode()
        await send_response(scope, send, 200, body, b"application/json")


class MetricsPage:
    """`GET /metrics`: counters, gauges and histograms in the text format of Prometheus."""

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


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
