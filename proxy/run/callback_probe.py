"""Whether CALLBACK_URL leads to the callback route: a wrong path, or a gateway without that route, fails every job.

The route answers a GET with words that nothing else uses. A GET does not count as a callback, and needs no token.
"""

from __future__ import annotations

import secrets
import ssl
from enum import Enum, auto
from http.client import HTTPException
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.routing import Route, Router

from proxy.api.callbacks import HERE
from proxy.http.asgi import Guard, send_response
from proxy.http.server import Listener
from proxy.http.time_limits import Limits
from proxy.run.http_probe import probe
from proxy.run.job_server_probe import reason_of
from shared.errors import Code

if TYPE_CHECKING:
    import socket

    from starlette.types import Receive, Scope, Send

    from proxy.run.http_probe import Probed
    from shared.settings import Settings

__all__ = ["Leads", "StandIn", "where_it_leads"]

_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404
_ROUTE: Final = "/callback, on CALLBACK_PORT if that is set, otherwise on PORT"


class Leads(Enum):
    """Where a callback address leads."""

    #: To the callback route of a proxy.
    TO_THE_ROUTE = auto()
    #: To a proxy, but not to one of its routes.
    TO_ANOTHER_PATH = auto()
    #: To something else, which may forward a job server's requests but not ours.
    ELSEWHERE = auto()
    #: Nowhere, as seen from here; or to a gateway that asks for the log-in in the address, which is not sent.
    NOWHERE = auto()


class StandIn:
    """Serves the callback route's address for the probe while the proxy does not run."""

    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        route = Route("/callback/{token}", _Here(), methods=["GET"])
        app = Guard(Router([route], redirect_slashes=False))
        self._listener = Listener(
            listener, app, limits=Limits(), certfile=settings.tls_certfile, keyfile=settings.tls_keyfile
        )

    async def __aenter__(self) -> None:
        self._listener.start()

    async def __aexit__(self, *_: object) -> None:
        self._listener.stop()
        await self._listener.stopped()


class _Here:
    """Answers a GET as the callback route does."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(scope, send, 200, HERE, b"application/json")


async def where_it_leads(url: str, timeout_s: float) -> tuple[Leads, str]:
    """Return where `url`, a callback base address, leads, and words about it."""
    try:
        answer = await probe("GET", f"{url}/{secrets.token_urlsafe(32)}", timeout_s, _anybody())
    except OSError as exc:
        return _without_answer(url, exc, reason_of(exc, timeout_s))
    return _with_answer(url, answer)


def _without_answer(url: str, exc: OSError, reason: str) -> tuple[Leads, str]:
    if isinstance(exc, ssl.SSLError):
        return Leads.ELSEWHERE, f"leads to something else: {reason}"
    if isinstance(exc.__cause__, HTTPException):
        other = "; is it https:// rather than http://?" if url.startswith("http://") else ""
        return Leads.ELSEWHERE, f"leads to something else: {reason}{other}"
    return Leads.NOWHERE, f"cannot be reached from this machine: {reason}"


def _with_answer(url: str, answer: Probed) -> tuple[Leads, str]:
    code = answer.problem.get("code")
    if answer.body == HERE:
        return Leads.TO_THE_ROUTE, ""
    if answer.status == _NOT_FOUND and code == Code.NOT_FOUND and "job_id" in answer.problem:
        return Leads.TO_ANOTHER_PATH, f"leads to the proxy but not to its callback route, which is {_ROUTE}"
    if answer.status == _UNAUTHORIZED and "@" in urlsplit(url).netloc:
        return Leads.NOWHERE, "asks for its user name and password, which this check does not send"
    return Leads.ELSEWHERE, f"answers {answer.status}, unlike the callback route"


def _anybody() -> ssl.SSLContext:
    """Return a context that accepts any certificate: the probe sends no secrets; only the job server must trust it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
