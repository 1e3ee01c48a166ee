"""The admin routes: what operators see; only on their own address, and only under its own names.

A malicious page can make its own domain point to this address while an operator's browser has it open (DNS rebinding).
The browser then lets that page read everything here. The name in `Host` gives it away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from proxy.http.asgi import header, send_json, send_response
from proxy.observe.counters import CONTENT_TYPE
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from proxy.observe.counters import Metrics
    from proxy.workers.status import PoolStatus, WorkerStatus

__all__ = ["MetricsPage", "OwnNames", "Workers"]


class OwnNames:
    """Accepts only requests for an IP address, or for one of the known names of this address.

    Other names without a dot are refused, too: within a network, anybody may be able to claim one.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        """`app` has the routes; `names` are the address's own names besides `localhost`, in lower case."""
        self._app = app
        self._names = frozenset({"", "localhost", *names})  # no Host: the client is not a browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Raises RequestError if its `Host` is not one of ours."""
        if scope["type"] == "http" and not self._is_ours(header(scope, b"host")):
            raise RequestError(
                Code.FORBIDDEN,
                "the admin address only answers under IP addresses, localhost, ADMIN_HOST and ADMIN_NAMES",
            )
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Workers:
    """`GET /workers`: every worker process, with its pid, state, job, age and number of finished jobs."""

    def __init__(self, pool_status: Callable[[], PoolStatus]) -> None:
        self._pool_status = pool_status

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with a list of every worker."""
        await send_json(scope, send, [_describe(worker) for worker in self._pool_status().workers])


class MetricsPage:
    """`GET /metrics`: counters, gauges and histograms in the text format of Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the current metrics."""
        await send_response(scope, send, 200, self._metrics.text(), CONTENT_TYPE)


def _describe(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "state": worker.state,
        "job_id": worker.job_id,
        "age_s": round(worker.age_s, 3),
        "jobs_done": worker.jobs_done,
    }


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
