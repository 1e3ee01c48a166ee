"""Callbacks that reach no callback route: the job is told, so that its client can find out why it got no result."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

from proxy.jobs.job import token_hash
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from proxy.jobs.callback_intake import CallbackIntake

__all__ = ["NO_ROUTE", "StrayCallbacks"]

NO_ROUTE: Final = "it came to a path that is no route"
#: Methods of requests that only check a URL.
_LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: The most notes in progress for requests whose connections may already be closed.
_MOST_NOTED: Final = 100
#: Finds a possible callback token in a path; it has 43 characters.
_TOKEN: Final = re.compile(r"(?<![\w-])([\w-]{43})(?![\w-])", re.ASCII)


class StrayCallbacks:
    """Requests without a route, with a wrong method or invalid HTTP: if one is a callback, its job is told.

    It is one if `CALLBACK_URL` does not lead to the callback route, or a gateway changes the path. The sender gets the
    same answer whether or not there is such a job.
    """

    def __init__(self, callback_intake: CallbackIntake, allowed: Sequence[str] = ()) -> None:
        """`allowed` are the methods of the route; empty: there is no route."""
        self._callback_intake = callback_intake
        self._allowed = allowed
        self._noting: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Refuse the request."""
        if scope["method"] not in _LOOKING:
            target = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
            await self.note(target, f"it came as {scope['method']}" if self._allowed else NO_ROUTE)
        if self._allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(self._allowed)})
        raise HTTPException(404)

    def unread(self, line: bytes, reason: str) -> None:
        """Note a request that does not reach the application, using the received part of its first line."""
        method, _, target = line.decode("latin-1").partition(" ")
        if method not in _LOOKING and _TOKEN.search(target) and len(self._noting) < _MOST_NOTED:
            task = asyncio.get_running_loop().create_task(self.note(target, reason, counted=True))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def note(self, target: str, reason: str, *, unless: str = "", counted: bool = False) -> None:
        """Tell the job whose token is in `target`; a token equal to `unless` was already looked up.

        `counted`: it is already counted as something else than a refused callback.
        """
        token = _TOKEN.search(target)
        if token is not None and token[1] != unless:
            hashed = token_hash(token[1])
            with contextlib.suppress(StoreUnavailableError):
                if await self._callback_intake.find(hashed) is not None:
                    await self._callback_intake.refuse(hashed, reason, counted=counted)
