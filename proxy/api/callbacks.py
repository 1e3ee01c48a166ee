"""The callback route: where the job server says that a job is done.

Who may call is told by the token alone, so every token that is not one of ours gets the same answer to the byte, before
anything of the body is read.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from proxy.api import problems
from proxy.api.http import read_body, send_problem, send_response
from proxy.job import token_hash
from shared import strict_json
from shared.errors import Code, RequestError, StrictJSONError
from shared.lifecycle import Event

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.job import Job
    from proxy.registry import Registry
    from proxy.store import JobStore

__all__ = ["CallbackRoute"]

_ACCEPTED: Final = b'{"status": "accepted"}'
_DUPLICATE: Final = b'{"status": "duplicate"}'
_LATE: Final = b'{"status": "late"}'


class CallbackRoute:
    """`POST` or `PUT /callback/<token>`."""

    def __init__(self, registry: Registry, store: JobStore, *, max_body_bytes: int) -> None:
        self._registry = registry
        self._store = store
        self._max_body_bytes = max_body_bytes
        #: How many callbacks of which kind: accepted, duplicate, late, unknown, refused.
        self.counts: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a callback."""
        hashed = token_hash(scope["path_params"]["token"])
        if self._registry.by_token(hashed) is None and await self._store.by_token(hashed) is None:
            self.counts["unknown"] += 1
            await send_problem(scope, send, problems.make(Code.NOT_FOUND, "there is no such callback"))
            return
        try:
            body = await read_body(scope, receive, self._max_body_bytes)
            strict_json.loads(body)
        except StrictJSONError as exc:
            self.counts["refused"] += 1
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc
        except RequestError:
            self.counts["refused"] += 1
            raise
        await send_response(scope, send, 200, await self._take(hashed, body), b"application/json")

    async def _take(self, hashed: bytes, body: bytes) -> bytes:
        """Give the callback to its job; the first one counts. Return the answer."""
        job = self._registry.by_token(hashed)
        if job is not None and not job.callback.done():
            _deliver(job, body)
            kind, answer = "accepted", _ACCEPTED
        elif job is not None:
            kind, answer = "duplicate", _DUPLICATE
        else:
            record = await self._store.by_token(hashed)
            called_back = record is not None and record.called_back
            kind, answer = ("duplicate", _DUPLICATE) if called_back else ("late", _LATE)
        self.counts[kind] += 1
        return answer


def _deliver(job: Job, body: bytes) -> None:
    job.advance(Event.CALLBACK)
    job.callback.set_result(body)
