"""A short status of the proxy, for the head of each page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from proxy.http.asgi import send_json

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.health import Ready
    from proxy.jobs.dispatcher import Dispatcher

__all__ = ["Status"]


class Status:
    """`GET /status`: whether the proxy accepts jobs, and since when it runs; cheap, as pages ask every few seconds."""

    def __init__(self, dispatcher: Dispatcher, ready: Ready, instance: str = "") -> None:
        """`instance`: its name, if there may be others."""
        self._dispatcher = dispatcher
        self._ready = ready
        self._instance = instance
        self._started_at = round(time.time(), 3)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the status."""
        await send_json(scope, send, self.shown())

    def shown(self) -> dict[str, Any]:
        """Return the status for a page; `started_at`, in Unix seconds, changes if the process was restarted."""
        return {
            "instance": self._instance,
            "started_at": self._started_at,
            "draining": self._ready.draining,
            "paused": self._dispatcher.pause.since is not None,
            "on_hold": self._ready.on_hold(),
            "refuses": self._ready.why_not(),
        }
