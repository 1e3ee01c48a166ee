"""The only way to the admin routes: authenticates, checks the role, and writes the audit entry.

The role follows from the method: `GET` needs `look`, everything else `act`. Pages and files that are needed to log in
are open.

A browser sends a session's cookie with every request, even one that another site's page triggered; likewise, a gateway
adds the header that names its user. So a request that acts must come from a page of this address, unless it has a key.
OwnNames makes sure that this address is not another site's domain (DNS rebinding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from starlette.routing import Match, Route, Router

from proxy.api.description.html import prefers_html
from proxy.api.operators.access.operator import Via
from proxy.http.asgi import ClientGoneError, header, path_of, peer_of, send_response
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.setting_kinds import Role

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from proxy.api.operators.access.gate import Gate
    from proxy.api.operators.access.operator import Operator
    from proxy.api.operators.audit import Audit

__all__ = ["Access", "check_origin", "is_open", "needed_role", "say_of_deed"]

#: What needs no authentication: logging in and out, and the static files of the pages.
_OPEN: Final = frozenset({"/login", "/logout"})
_OPEN_BELOW: Final = "/static/"
#: RFC 9110, 9.2.1.
_LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BAD: Final = 400


def is_open(path: str) -> bool:
    """Return whether a route's path, without a gateway's prefix, is open to everybody."""
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def needed_role(method: str) -> Role:
    """Return the role that a request with this method needs on a route that is not open."""
    return Role.LOOK if method in _LOOKS else Role.ACT


class Access:
    """Lets requests of operators through to the routes."""

    def __init__(self, router: Router, gate: Gate, audit: Audit) -> None:
        self._router = router
        self._gate = gate
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on.

        Raises:
            RequestError: the operator is unknown or not allowed to do this, or another site's page may have sent it.
            AdmissionError: too many wrong keys came from its address.
        """
        path = path_of(scope)
        if is_open(path):
            await self._router(scope, receive, send)
            return
        operator = self._gate.who(scope)
        if operator is None:
            if scope["method"] == "GET" and prefers_html(scope):
                await send_response(scope, send, 303, b"", b"text/plain", [(b"location", _log_in(scope, path))])
                return
            raise RequestError(Code.UNAUTHORIZED, "send `Authorization: Bearer <key>` with an admin key, or log in")
        scope["operator"] = operator
        send = self._while_known(operator, send)
        if needed_role(scope["method"]) is Role.ACT:
            await self._act(operator, scope, receive, send)
        else:
            await self._router(scope, receive, send)

    def _while_known(self, operator: Operator, send: Send) -> Send:
        """Return a `send` that aborts a streamed answer once `operator` is no longer admitted."""

        async def send_while_known(message: Message) -> None:
            if message.get("more_body") and not self._gate.still_knows(operator):
                raise ClientGoneError("whoever asked is let in no more")
            await send(message)

        return send_while_known

    async def _act(self, operator: Operator, scope: Scope, receive: Receive, send: Send) -> None:
        deed = self._deed(scope)
        if deed is None:  # there is no such route
            await self._router(scope, receive, send)
            return
        what, of = deed
        outcome = ""
        scope["deed"] = {}

        async def watched_send(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                outcome = "done" if message["status"] < _BAD else str(message["status"])
            await send(message)

        try:
            _check(operator, scope)
            await self._router(scope, receive, watched_send)
        except (RequestError, AdmissionError) as exc:
            outcome = exc.code
            raise
        except StoreUnavailableError:
            outcome = Code.JOURNAL_UNAVAILABLE
            raise
        finally:
            self._audit.enter(
                what=what,
                of=of,
                who=operator.name,
                via=operator.via,
                peer=peer_of(scope),
                outcome=outcome or "unknown",
                detail=scope["deed"].get("detail", ""),
            )

    def _deed(self, scope: Scope) -> tuple[str, str] | None:
        """Return the name of a request's action, and the job's id or ""; None: there is no such route."""
        for route in self._router.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                path = route.path if isinstance(route, Route) else ""
                return path.rpartition("/")[2], str(found.get("path_params", {}).get("id", ""))
        return None


def check_origin(scope: Scope) -> None:
    """Raise RequestError unless a browser sent the request from a page of this address."""
    here = f"{scope['scheme']}://{header(scope, b'host')}"
    origin = header(scope, b"origin")
    if origin != here or header(scope, b"sec-fetch-site") not in {"", "same-origin"}:
        raise RequestError(
            Code.FORBIDDEN,
            f"only a page of this address ({here}) can do that; a gateway in front has to be in ADMIN_TRUSTED_PEERS or "
            "TRUSTED_PROXIES and set X-Forwarded-Proto and X-Forwarded-Host",
        )


def say_of_deed(scope: Scope, detail: str) -> None:
    """Set the detail of the request's audit entry."""
    scope.get("deed", {})["detail"] = detail


def _check(operator: Operator, scope: Scope) -> None:
    if operator.role is not Role.ACT:
        raise RequestError(Code.FORBIDDEN, f"{operator.words} may look, but not act")
    if operator.via is not Via.KEY:
        check_origin(scope)
        if header(scope, b"x-requested-by") != "dashboard":
            raise RequestError(
                Code.FORBIDDEN, "only the dashboard's own page can do that, or a request with an admin key"
            )


def _log_in(scope: Scope, path: str) -> bytes:
    query = scope.get("query_string", b"").decode("latin-1")
    after = quote(path.lstrip("/") + (f"?{query}" if query else ""), safe="")
    return f"{scope['root_path']}/login{f'?next={after}' if after else ''}".encode()
