"""Asking the job server about one job because an operator wants to know now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.http.asgi import send_json
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.polling import Poller

__all__ = ["AskJobServer"]


class AskJobServer:
    """`POST /jobs/<id>/ask`: ask the job server now about a job in flight here; an end that it tells of counts."""

    def __init__(self, in_flight: InFlight, poller: Poller) -> None:
        self._in_flight = in_flight
        self._poller = poller

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with what the job server said.

        Raises:
            RequestError: no such job is in flight at this instance.
        """
        job = self._in_flight.by_id(scope["path_params"]["id"])
        if job is None:
            raise RequestError(Code.NOT_FOUND, "no such job is in flight at this instance")
        told = await self._poller.ask_now(job)
        await send_json(scope, send, {"kind": str(told.kind), "state": told.state, "error": told.error})
