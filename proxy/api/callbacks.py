"""The callback route: where the job server says that a job is done.

Who may call is told by the token alone, so every token that is not one of ours gets the same answer to the byte, before
anything of the body is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.http.asgi import read_body, send_response
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import token_hash
from shared.errors import Code, RequestError, StrictJSONError
from shared.job_server.callbacks import Received

if TYPE_CHECKING:
    from collections import Counter

    from starlette.types import Receive, Scope, Send

    from proxy.jobs.callback_intake import CallbackIntake
    from shared.job_server.callbacks import Callbacks

__all__ = ["CallbackRoute"]

_ANSWERS: Final = {
    CallbackFate.ACCEPTED: b'{"status": "accepted"}',
    CallbackFate.PROGRESS: b'{"status": "progress"}',
    CallbackFate.DUPLICATE: b'{"status": "duplicate"}',
    CallbackFate.LATE: b'{"status": "late"}',
}


class CallbackRoute:
    """`POST` or `PUT /callback/<token>`."""

    def __init__(self, intake: CallbackIntake, callbacks: Callbacks, *, max_body_bytes: int) -> None:
        self._intake = intake
        self._callbacks = callbacks
        self._max_body_bytes = max_body_bytes

    @property
    def counts(self) -> Counter[str]:
        """How many callbacks of which `CallbackFate`."""
        return self._intake.counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a callback."""
        hashed = token_hash(scope["path_params"]["token"])
        if not await self._intake.is_known(hashed):
            self.counts[CallbackFate.UNKNOWN] += 1
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        try:
            body = await read_body(scope, receive, self._max_body_bytes)
            verdict = self._callbacks.read(
                Received(
                    method=scope["method"],
                    route=scope["path_params"].get("route", ""),
                    query=scope["query_string"].decode("latin-1"),
                    headers=scope["headers"],
                    body=body,
                )
            )
        except StrictJSONError as exc:
            self.counts[CallbackFate.REFUSED] += 1
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc
        except RequestError:
            self.counts[CallbackFate.REFUSED] += 1
            raise
        fate = await self._intake.take(hashed, body, verdict)
        await send_response(scope, send, 200, _ANSWERS[fate], b"application/json")
