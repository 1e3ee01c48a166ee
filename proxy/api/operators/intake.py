"""Pauses and resumes the intake of new jobs, and starts draining, on an operator's request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Route

from proxy import log
from proxy.api.operators.access.access import say_of_deed
from proxy.api.operators.access.operator import operator_of
from proxy.http.asgi import Bodies, send_json
from shared import strict_json
from shared.errors import Code, RequestError, StrictJSONError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.health import Ready
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.in_flight import InFlight

__all__ = ["Drain", "IntakeView", "PauseIntake", "ResumeIntake", "routes"]

_MAX_BODY_BYTES: Final = 4_096
_LONGEST_REASON: Final = 500


def routes(dispatcher: Dispatcher, drain: Drain) -> list[Route]:
    """Return the routes."""
    return [
        Route("/intake/pause", PauseIntake(drain.view, dispatcher), methods=["POST"]),
        Route("/intake/resume", ResumeIntake(drain.view, dispatcher), methods=["POST"]),
        Route("/drain", drain, methods=["POST"]),
    ]


class IntakeView:
    """Whether jobs are accepted, for operators."""

    def __init__(self, dispatcher: Dispatcher, in_flight: InFlight, ready: Ready) -> None:
        self._dispatcher = dispatcher
        self._in_flight = in_flight
        self._ready = ready

    def shown(self) -> dict[str, Any]:
        """Return the state of the intake."""
        return {
            **self._dispatcher.pause.shown(),
            "draining": self._ready.draining,
            "refuses": self._ready.why_not(),
            "in_flight": len(self._in_flight),
        }

    async def send(self, scope: Scope, send: Send, status: int = 200) -> None:
        """Answer with the state of the intake."""
        await send_json(scope, send, self.shown(), status=status)


class PauseIntake:
    """`POST /intake/pause`: accept no new jobs until the intake is resumed or the proxy restarted."""

    def __init__(self, view: IntakeView, dispatcher: Dispatcher) -> None:
        self._view = view
        self._dispatcher = dispatcher
        self._bodies = Bodies(_MAX_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pause, and answer with the state of the intake."""
        reason = _reason_in(await self._bodies.read(scope, receive))
        self._dispatcher.pause.begin(operator_of(scope).name, reason)
        say_of_deed(scope, reason)
        await self._view.send(scope, send)


class ResumeIntake:
    """`POST /intake/resume`: accept new jobs again."""

    def __init__(self, view: IntakeView, dispatcher: Dispatcher) -> None:
        self._view = view
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Resume, and answer with the state of the intake."""
        self._dispatcher.pause.end(operator_of(scope).name)
        await self._view.send(scope, send)


class Drain:
    """`POST /drain`: the same as SIGTERM: accept no new jobs, finish those in flight, exit. Cannot be undone."""

    def __init__(self, view: IntakeView) -> None:
        #: The state of the intake.
        self.view = view
        #: Starts the drain; set by the code that can stop the process.
        self.begin: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Begin, and answer with the state of the intake."""
        log.event("info", "an operator started the drain", by=operator_of(scope).name or None)
        self.begin()
        await self.view.send(scope, send, 202)


def _reason_in(body: bytes) -> str:
    """Return the reason in a request's body, which may be empty. Raises RequestError."""
    if not body:
        return ""
    try:
        given = strict_json.loads(body)
    except StrictJSONError as exc:
        raise RequestError(Code.INVALID_REQUEST, f"the body is not JSON: {exc}") from exc
    reason = given.get("reason") if isinstance(given, dict) and set(given) <= {"reason"} else None
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise RequestError(
            Code.INVALID_REQUEST,
            f'the body takes {{"reason": "..."}}, printable and with at most {_LONGEST_REASON} characters, or nothing',
        )
    return reason
