"""Asks the job server about one job on an operator's request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.http.asgi import send_json
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.jobs.inquiry import Inquiry

__all__ = ["AskJobServer"]


class AskJobServer:
    """`POST /jobs/<id>/ask`: ask the job server now about a job; a final state in its answer ends the job."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the job server's answer.

        Raises:
            RequestError: there is no such job.
            StoreUnavailableError: the job cannot be looked up now, or the answer cannot be recorded.
        """
        told = await self._inquiry.ask(scope["path_params"]["id"])
        if told is None:
            raise RequestError(Code.NOT_FOUND, "there is no such job, or it is no longer remembered")
        await send_json(scope, send, {"kind": str(told.kind), "state": told.state, "error": told.error})
