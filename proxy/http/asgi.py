"""Reads requests and sends answers: the common part of all routes.

Plain ASGI, without Request and Response objects, because these functions run for every job and every callback, and the
size and time of a body have to be limited while it is read: each body has a limit, and all unfinished ones share one.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

from proxy import log
from proxy.http import problems
from proxy.http.fair_turns import turns
from proxy.http.refusals import Refusals
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "NO_STORE",
    "Bodies",
    "ClientGoneError",
    "Guard",
    "SlowClientError",
    "content_length",
    "header",
    "headers_of",
    "lost_of",
    "note_cut_off",
    "path_of",
    "peer_of",
    "route_of",
    "send_json",
    "send_problem",
    "send_response",
]


#: Longer answers are sent in pieces of this size, so that only one is buffered for a slow client.
_PIECE_BYTES: Final = 65_536

#: The limit of all incomplete bodies together; or four of the largest allowed bodies, if that is more.
_TOGETHER_BYTES: Final = 64 * 1024 * 1024
_TOGETHER_COUNT: Final = 4

#: A route's first segment: a word. It cannot be a token, which has 43 characters, including digits.
_ROUTE: Final = re.compile(r"[A-Za-z]{1,16}(?:\.json)?")

#: For everything that may change: caches keep answers that do not forbid it, even a 404.
NO_STORE: Final = (b"cache-control", b"no-store")

Headers = Iterable[tuple[bytes, bytes]]


class ClientGoneError(OSError):
    """The client disconnected, or does not read its answer: none can be sent."""


class SlowClientError(ClientGoneError):
    """The client reads its answer too slowly, and was disconnected."""


def header(scope: Scope, name: bytes) -> str:
    """Return the first header called `name` (lower case), or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return every header called `name` (lower case), in order."""
    return [str(value, "latin-1") for key, value in scope["headers"] if key == name]


def content_length(scope: Scope) -> int | None:
    """Return how many bytes of a body a request announces, if it does."""
    announced = header(scope, b"content-length")
    return int(announced[:20]) if announced.isdecimal() else None


def lost_of(scope: Scope) -> asyncio.Future[None] | None:
    """Return what is done once the connection of a request is lost, whoever waits for it; None: nobody says so.

    A client that has only closed its sending half may still read its answer.
    """
    lost: asyncio.Future[None] | None = scope.get("state", {}).get("lost")
    return lost


def path_of(scope: Scope) -> str:
    """Return the path of a request without a gateway's prefix, as the routes have it."""
    path: str = scope["path"].removeprefix(scope["root_path"])
    return path


def peer_of(scope: Scope) -> str:
    """Return the client's address, or an empty string."""
    return str((scope.get("client") or ("",))[0])


def route_of(path: str) -> str:
    """Return the part of a path that may be logged: the first segment, if it looks like one of a route.

    The next segment may be a token; so may the first, if a callback URL is misconfigured or the request is garbled.
    """
    segment = path.lstrip("/").partition("/")[0].partition("?")[0]
    return f"/{segment}" if not segment or _ROUTE.fullmatch(segment) else "/..."


class Bodies:
    """Reads bodies for one kind of request.

    Jobs and callbacks have one each, so that clients that send incomplete bodies do not block callbacks. A body that
    arrives at once, like most, is not counted: there is always room for it.
    """

    def __init__(self, max_bytes: int, together_bytes: int | None = None) -> None:
        """`max_bytes` is the limit of one body, `together_bytes` that of all incomplete ones."""
        self._max_bytes = max_bytes
        self._free_bytes = together_bytes or max(_TOGETHER_BYTES, _TOGETHER_COUNT * max_bytes)

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return a request's body.

        Raises:
            RequestError: it is too large or too slow (`receive` detects that).
            AdmissionError: too much of other bodies is being read.
            ClientGoneError: the client left.
        """
        if (content_length(scope) or 0) > self._max_bytes:
            raise self._too_large()
        message = await receive()
        if not message.get("more_body", False):
            body: bytes = _piece(message)
            if len(body) > self._max_bytes:
                raise self._too_large()
            return body
        begun = bytearray(_piece(message))
        del message  # otherwise a large piece would be held until the last one has come
        return await self._read_on(receive, begun)

    async def _read_on(self, receive: Receive, body: bytearray) -> bytes:
        self._free_bytes -= len(body)
        try:
            more = True
            while more:
                more = self._add(body, await receive())
            await turns.take_for(len(body))
            return bytes(body)
        finally:
            self._free_bytes += len(body)

    def _add(self, body: bytearray, message: Message) -> bool:
        """Add a piece to `body`; return whether there are more."""
        piece = _piece(message)
        more: bool = message.get("more_body", False)
        body += piece
        self._free_bytes -= len(piece)
        if len(body) > self._max_bytes:
            raise self._too_large()
        if more and self._free_bytes < 0:
            raise AdmissionError(Code.OVERLOADED, "too many request bodies are being read")
        return more

    def _too_large(self) -> RequestError:
        return RequestError(Code.PAYLOAD_TOO_LARGE, f"the body is larger than {self._max_bytes} bytes")


def _piece(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    return body


async def send_response(
    scope: Scope, send: Send, status: int, body: bytes, content_type: bytes, headers: Headers = ()
) -> None:
    """Send a complete answer.

    Raises:
        ClientGoneError: the client has left, or does not read it.
    """
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await turns.take_for(len(body))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    rest = b"" if scope["method"] == "HEAD" else body
    sent = 0
    try:
        while len(rest) - sent > _PIECE_BYTES:
            piece = rest[sent : sent + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += _PIECE_BYTES
        await send({"type": "http.response.body", "body": rest[sent:] if sent else rest})
    except SlowClientError:
        job_id = next((str(value, "latin-1") for name, value in fields if name == b"job-id"), None)
        note_cut_off(scope, status, sent, job_id=job_id, body_bytes=len(body))
        raise


def note_cut_off(
    scope: Scope, status: int, sent_bytes: int, *, job_id: str | None = None, body_bytes: int | None = None
) -> None:
    """Log an answer that its client did not read to the end; `body_bytes`: None if its length is unknown."""
    log.event(
        "warning",
        "an answer was cut off: its client reads too slowly",
        route=route_of(path_of(scope)),
        status=status,
        job_id=job_id,
        sent_bytes=sent_bytes,
        body_bytes=body_bytes,
    )


async def send_json(scope: Scope, send: Send, document: object, *, status: int = 200, headers: Headers = ()) -> None:
    """Send `document` as JSON that no cache keeps. Raises ClientGoneError."""
    await send_response(scope, send, status, json.dumps(document).encode(), b"application/json", [NO_STORE, *headers])


async def send_problem(scope: Scope, send: Send, problem: problems.Problem) -> None:
    """Send a problem document (RFC 9457). Its `type` is a path that works for its reader, below a gateway's prefix."""
    headers = [NO_STORE, *problem.headers]
    body = problem.below(scope["root_path"])
    await send_response(scope, send, problem.status, body, problems.CONTENT_TYPE, headers)


class Guard:
    """The outermost layer: an exception becomes one problem document, never an empty 500, never a traceback.

    An answer in pieces ends when its client has left: there may be very many of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_problem: Callable[[Code], None] | None = None,
        documentation: str = "",
        submitted_of: Callable[[Exception, Scope], Submitted] = lambda _exc, _scope: Submitted.UNKNOWN,
    ) -> None:
        """`on_problem` gets the code of each refused request; `documentation` is the path that lists the routes.

        `submitted_of` returns what a refusal says about the submission of the request's job.
        """
        self._app = app
        self._submitted_of = submitted_of
        self._on_problem = on_problem
        self._documentation = documentation
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer if an exception is raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app  # makes the router raise its refusals instead of answering in plain text
        started = False
        lost = lost_of(scope)

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            if lost is not None and lost.done() and message.get("more_body"):
                raise ClientGoneError("the client has left")
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientGoneError:
            return
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client gets an answer
            documentation = self._documentation and scope["root_path"] + self._documentation
            problem = _problem_of(exc, documentation, self._submitted_of(exc, scope))
            if problem.code is Code.INTERNAL_ERROR:
                log.event("error", "unhandled exception in a request", **log.exception_fields(exc))
            else:
                self._refusals.note(
                    problem,
                    method=scope["method"],
                    route=route_of(path_of(scope)),
                    peer=peer_of(scope),
                )
            if self._on_problem is not None:
                self._on_problem(problem.code)
            if not started:
                with contextlib.suppress(ClientGoneError):
                    await send_problem(scope, send, problem)


def _problem_of(exc: Exception, documentation: str, submitted: Submitted) -> problems.Problem:
    match exc:
        case RequestError():
            return problems.make(exc.code, exc.detail, submitted=submitted, parameter=exc.parameter)
        case AdmissionError():
            return problems.make(exc.code, exc.detail, submitted=submitted, retry_after_s=exc.retry_after_s)
        case StoreUnavailableError():
            return problems.make(Code.JOURNAL_UNAVAILABLE, str(exc), submitted=submitted, retry_after_s=1)
        case HTTPException(status_code=405):
            allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))  # Starlette's is a set
            detail = f"this route takes {allowed or 'other methods'}"
            problem = problems.make(Code.METHOD_NOT_ALLOWED, detail, submitted=submitted)
            problem.headers.append((b"allow", allowed.encode()))
            return problem
        case HTTPException():
            return _no_such_route(documentation, submitted)
        case _:
            return problems.make(Code.INTERNAL_ERROR, "unhandled exception in the proxy", submitted=Submitted.UNKNOWN)


def _no_such_route(documentation: str, submitted: Submitted) -> problems.Problem:
    if not documentation:
        return problems.make(Code.NOT_FOUND, "there is no such route", submitted=submitted)
    detail = f"there is no such route; {documentation} lists the routes"
    problem = problems.make(Code.NOT_FOUND, detail, submitted=submitted)
    problem.headers.append((b"link", f'<{documentation}>; rel="service-doc"'.encode()))  # RFC 8631
    return problem
