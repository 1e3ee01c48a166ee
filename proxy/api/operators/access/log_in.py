"""Logging in by a form, for browsers: a key starts a session, whose token the browser sends only to this address."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from starlette.routing import Route

from proxy.api.operators.access.access import check_origin
from proxy.api.operators.access.gate import cookie_name
from proxy.api.operators.access.operator import Via, operator_of
from proxy.api.operators.access.sessions import LASTS_S
from proxy.http.asgi import Bodies, header, peer_of, send_json, send_response
from shared.errors import AdmissionError, Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.operators.access.gate import Gate
    from proxy.api.operators.audit import Audit
    from proxy.http.asgi import Headers

__all__ = ["Form", "LogIn", "LogOut", "SessionOf", "routes"]

_PAGE: Final = (Path(__file__).resolve().parent / "log_in.html").read_text(encoding="utf-8")
_MESSAGE: Final = "<!--message-->"
_HTML: Final = b"text/html; charset=utf-8"
_MAX_BODY_BYTES: Final = 4_096
_FORM: Final = "application/x-www-form-urlencoded"
#: A valid page to return to: below this address and nowhere else, however a browser interprets it.
_NEXT: Final = re.compile(r"(?![^?]*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,200}(?:\?[A-Za-z0-9!$%&'-/:;=?@_~]{0,1000})?")


def routes(gate: Gate, audit: Audit) -> list[Route]:
    """Return the routes."""
    return [
        Route("/login", Form(gate), methods=["GET"]),
        Route("/login", LogIn(gate, audit), methods=["POST"]),
        Route("/logout", LogOut(gate, audit), methods=["POST"]),
        Route("/session", SessionOf(gate), methods=["GET"]),
    ]


class LogIn:
    """`POST /login`: starts a session for the holder of the admin key in the form."""

    def __init__(self, gate: Gate, audit: Audit) -> None:
        self._gate = gate
        self._audit = audit
        self._bodies = Bodies(_MAX_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start a session and redirect the browser to the page that it asked for; or show the form again."""
        check_origin(scope)
        if header(scope, b"content-type").partition(";")[0].strip().lower() != _FORM:
            raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, f"the form is sent as {_FORM}")
        key = _member(await self._bodies.read(scope, receive), "key")
        try:
            operator, token = self._gate.log_in(scope, key.strip())
        except RequestError:
            await _send_form(scope, send, 401, "This key is not known.")
            return
        except AdmissionError as exc:
            words = f"Too many wrong keys came from your address. Try again in {exc.retry_after_s} s."
            await _send_form(scope, send, 429, words, [(b"retry-after", b"%d" % exc.retry_after_s)])
            return
        self._audit.enter(what="log-in", who=operator.name, via=Via.SESSION, peer=peer_of(scope))
        await _send_on(scope, send, _next(scope), _cookie(scope, token, int(LASTS_S)))


class Form:
    """`GET /login`: the form that takes an admin key."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the form; redirect operators who are admitted without it."""
        if self._gate.who(scope) is not None:
            await _send_on(scope, send, _next(scope))
            return
        await _send_form(scope, send, 200)


class LogOut:
    """`POST /logout`: ends a session."""

    def __init__(self, gate: Gate, audit: Audit) -> None:
        self._gate = gate
        self._audit = audit

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """End the session, if there is one, and redirect the browser to the form."""
        check_origin(scope)
        operator = self._gate.log_out(scope)
        if operator is not None:
            self._audit.enter(what="log-out", who=operator.name, via=operator.via, peer=peer_of(scope))
        await _send_on(scope, send, "login", _cookie(scope, "", 0))


class SessionOf:
    """`GET /session`: the operator, what they may do, and until when their session lasts."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the operator."""
        operator = operator_of(scope)
        await send_json(
            scope,
            send,
            {
                "name": operator.name,
                "role": operator.role,
                "via": operator.via,
                "expires_at": operator.session.expires_at if operator.session is not None else None,
                "guarded": self._gate.is_guarded,
            },
        )


def _member(body: bytes, name: str) -> str:
    try:
        members = dict(parse_qsl(body.decode("ascii"), max_num_fields=8))
    except ValueError:  # not ASCII, or too many members
        raise RequestError(Code.INVALID_REQUEST, "the form has one member, `key`") from None
    return members.get(name, "")


def _next(scope: Scope) -> str:
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")[:4096]))
    wanted = query.get("next", "")
    return wanted if _NEXT.fullmatch(wanted) else ""


def _cookie(scope: Scope, token: str, lasts_s: int) -> list[tuple[bytes, bytes]]:
    secure = "; Secure" if scope["scheme"] == "https" else ""
    path = f"{scope['root_path']}/"
    cookie = f"{cookie_name(scope)}={token}; Path={path}; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"
    return [(b"set-cookie", cookie.encode())]


async def _send_form(scope: Scope, send: Send, status: int, message: str = "", headers: Headers = ()) -> None:
    words = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    await send_response(scope, send, status, _PAGE.replace(_MESSAGE, words).encode(), _HTML, headers)


async def _send_on(scope: Scope, send: Send, to: str, headers: Headers = ()) -> None:
    location = (b"location", f"{scope['root_path']}/{to}".encode())
    await send_response(scope, send, 303, b"", b"text/plain", [location, *headers])
