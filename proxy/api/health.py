"""Health: is the process serving, and should it get new jobs?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.http import problems
from proxy.http.asgi import NO_STORE, send_problem, send_response
from shared.errors import Code
from shared.version import VERSION

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.headroom import Headroom
    from proxy.store.protocol import JobStore

__all__ = ["Alive", "Ready"]


#: With the version, so that one can see which of several instances runs which.
_ALIVE: Final = json.dumps({"status": "ok", "version": VERSION}).encode()


class Alive:
    """`GET /healthz`: the process serves."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer that the process serves."""
        await send_response(scope, send, 200, _ALIVE, b"application/json", [NO_STORE])


class Ready:
    """`GET /readyz`: 503 while every job would be refused for longer than a moment, or soon will be.

    That is while draining or about to, while operators have paused the intake, and while no worker can be started,
    nothing recorded, or the machine is short of something. MAX_JOBS jobs in flight are no reason: the next one that
    ends makes room.
    """

    def __init__(self, dispatcher: Dispatcher, store: JobStore, on_hold: Callable[[], str], headroom: Headroom) -> None:
        """`on_hold` returns why no worker can be started now; an empty string if all is well."""
        self._dispatcher = dispatcher
        self._store = store
        self.on_hold = on_hold
        self._headroom = headroom
        #: Whether load balancers should send no more jobs, although the proxy still accepts them.
        self.leaving = False

    @property
    def draining(self) -> bool:
        """Whether the proxy is draining or about to."""
        return self._dispatcher.draining or self.leaving

    def refusal(self) -> tuple[Code, str] | None:
        """Return why jobs should not be sent here; None: they should."""
        if self.draining:
            return Code.SHUTTING_DOWN, "the proxy is shutting down"
        if self._dispatcher.pause.since is not None:
            return Code.INTAKE_PAUSED, "an operator has paused the intake of new jobs"
        if on_hold := self.on_hold():
            return Code.NO_WORKER, on_hold
        if self._store.trouble:
            return Code.JOURNAL_UNAVAILABLE, self._store.trouble
        if shortage := self._headroom.shortage():
            return Code.OVERLOADED, f"the machine is short of {shortage}"
        return None

    def why_not(self) -> str:
        """Return why jobs should not be sent here, for a person; empty: they should."""
        refusal = self.refusal()
        return "" if refusal is None else refusal[1]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer whether jobs should be sent here."""
        refusal = self.refusal()
        if refusal is not None:
            await send_problem(scope, send, problems.make(*refusal))
        else:
            await send_response(scope, send, 200, b'{"status": "ready"}', b"application/json", [NO_STORE])
