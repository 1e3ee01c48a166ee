"""The outermost layer: whatever is raised, the client gets one problem document, or nothing if it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pytest
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from proxy.http.asgi import ClientGoneError, Guard, send_response
from proxy.http.problems import TABLE
from proxy.store.protocol import TakenError
from shared.errors import AdmissionError, Code, ParameterError, ProxyError, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted
from tests.support.asgi import ask, request_scope, sent_by
from tests.support.http import Answer, problem
from tests.support.records import a_record

SECRET: Final = "a token, say"


class Raising:
    """An application that raises, before or after it has sent something."""

    def __init__(self, exception: BaseException, *sent: Message) -> None:
        self._exception = exception
        self._sent = sent

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send, then raise."""
        for message in self._sent:
            await send(message)
        raise self._exception


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The logged lines: the level, and the fields."""
    logged: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("proxy.log.event", lambda level, _what, **fields: logged.append((level, fields)))
    return logged


async def refused(exception: Exception, method: str = "GET", **options: Any) -> tuple[Answer, list[Code]]:
    """Return the answer if `exception` is raised, and the counted codes."""
    counted: list[Code] = []
    guard = Guard(Raising(exception), counted.append, **options)
    return await ask(guard, method, "/somewhere"), counted


@pytest.mark.parametrize("code", Code)
async def test_a_refused_request_is_answered_with_its_code(code: Code) -> None:
    """With the detail of the exception; the code is counted."""
    answer, counted = await refused(RequestError(code, "because"))

    assert problem(answer, code, TABLE[code].status)["detail"] == "because"
    assert counted == [code]


async def test_a_job_that_is_not_admitted_hears_when_to_come_again() -> None:
    """In whole seconds; nothing was submitted."""
    error = AdmissionError(Code.OVERLOADED, "full", retry_after_s=7)
    answer, counted = await refused(error, submitted_of=lambda _exc, _scope: Submitted.NO)

    assert problem(answer, Code.OVERLOADED, 503, submitted="no")["detail"] == "full"
    assert (answer.headers["Retry-After"], counted) == ("7", [Code.OVERLOADED])


@pytest.mark.parametrize("submitted", Submitted)
async def test_others_decide_what_is_said_of_a_job(submitted: Submitted) -> None:
    """They get the exception and the request: this layer knows no jobs."""
    exception, given = RequestError(Code.INVALID_REQUEST, "no job"), []

    def submitted_of(exc: Exception, scope: Scope) -> Submitted:
        given.append((exc, scope["path"]))
        return submitted

    answer, _ = await refused(exception, "POST", submitted_of=submitted_of)

    assert (answer.document["submitted"], given) == (submitted, [(exception, "/somewhere")])


async def test_a_store_that_is_unavailable_is_answered_in_one_place() -> None:
    """The caller need not know HTTP."""
    answer, counted = await refused(StoreUnavailableError("the disk is full"))

    assert problem(answer, Code.JOURNAL_UNAVAILABLE, 503)["detail"] == "the disk is full"
    assert counted == [Code.JOURNAL_UNAVAILABLE]


@pytest.mark.parametrize(
    "exception", [KeyError(SECRET), ValueError(SECRET), OSError(5, SECRET), TimeoutError(SECRET), RecursionError()]
)
async def test_an_unhandled_exception_is_a_500_that_tells_nothing(
    exception: Exception, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """No traceback and no value in the answer or in the log; the log has the exception's type."""
    answer, counted = await refused(exception)

    problem(answer, Code.INTERNAL_ERROR, 500)
    assert SECRET.encode() not in answer.body
    ((level, fields),) = lines
    assert (level, counted) == ("error", [Code.INTERNAL_ERROR])
    assert type(exception).__name__ in str(fields)
    assert SECRET not in str(fields)


def errors(root: type[ProxyError]) -> Iterator[type[ProxyError]]:
    """Yield the whole tree of the project's own exceptions."""
    for kind in root.__subclasses__():
        yield kind
        yield from errors(kind)


@pytest.mark.parametrize("kind", [ProxyError, *errors(ProxyError)])
async def test_every_exception_of_the_project_becomes_a_problem(kind: type[ProxyError]) -> None:
    """Even those that should not occur in a request."""
    made_of: tuple[object, ...] = ("full",)
    if kind in {RequestError, AdmissionError}:
        made_of = (Code.OVERLOADED, "full")
    elif kind is ParameterError:
        made_of = ("since", "full")
    elif kind is TakenError:
        made_of = (a_record(),)
    exception = kind(*made_of)

    answer, (code,) = await refused(exception)

    problem(answer, code, TABLE[code].status)


@pytest.mark.parametrize("documentation", ["", "/docs"])
async def test_a_route_that_is_not_there_leads_to_those_that_are(documentation: str) -> None:
    """If there is a page that lists them; a gateway's prefix is added."""
    counted: list[Code] = []
    guard = Guard(Router([]), counted.append, documentation)
    answer = await ask(guard, "GET", "/gateway/nowhere", root_path="/gateway")

    link = '</gateway/docs>; rel="service-doc"' if documentation else None
    assert (answer.status, answer.headers.get("Link"), counted) == (404, link, [Code.NOT_FOUND])
    assert answer.document["type"] == "/gateway/problems/not-found"
    assert ("/gateway/docs" in answer.document["detail"]) is bool(documentation)


async def test_a_method_that_a_route_has_not_hears_which_it_has() -> None:
    """The router raises instead of answering in plain text."""
    guard = Guard(Router([Route("/here", lambda _: PlainTextResponse("ok"), methods=["POST", "PUT"])]))
    answer = await ask(guard, "DELETE", "/here")

    problem(answer, Code.METHOD_NOT_ALLOWED, 405)
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "PUT"}


async def test_any_other_http_exception_is_a_problem_too() -> None:
    """Whatever a framework raises."""
    answer, _ = await refused(HTTPException(404))
    problem(answer, Code.NOT_FOUND, 404)
    answer, _ = await refused(HTTPException(405))
    problem(answer, Code.METHOD_NOT_ALLOWED, 405)


async def test_a_head_request_gets_the_headers_of_the_problem_alone() -> None:
    """Including the length that its body would have."""
    first, rest = await sent_by(Guard(Raising(KeyError())), request_scope("HEAD"))

    assert (first["status"], rest["body"]) == (500, b"")
    assert int(dict(first["headers"])[b"content-length"]) > 0


START: Final[Message] = {"type": "http.response.start", "status": 200, "headers": []}
PIECE: Final[Message] = {"type": "http.response.body", "body": b"half", "more_body": True}


@pytest.mark.parametrize("sent", [(START,), (START, PIECE)])
@pytest.mark.parametrize(
    "exception", [KeyError(SECRET), StoreUnavailableError("full"), RequestError(Code.FORBIDDEN, "")]
)
async def test_an_answer_that_has_begun_is_not_followed_by_another(
    sent: tuple[Message, ...], exception: Exception, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """It stays incomplete, which the client notices; the failure is counted, and logged if it was unexpected."""
    counted: list[Code] = []
    guard = Guard(Raising(exception, *sent), counted.append)

    assert await sent_by(guard, request_scope()) == list(sent)
    assert len(counted) == 1
    assert [level for level, _ in lines] == ["error" if counted == [Code.INTERNAL_ERROR] else "info"]


@pytest.mark.parametrize("sent", [(), (START,), (START, PIECE)])
async def test_a_client_that_has_left_is_not_answered(
    sent: tuple[Message, ...], lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """Nor is it counted as refused or logged as an error."""
    counted: list[Code] = []

    assert await sent_by(Guard(Raising(ClientGoneError(), *sent), counted.append), request_scope()) == list(sent)
    assert (counted, lines) == ([], [])


async def test_an_answer_in_pieces_ends_when_the_connection_is_lost(lines: list[tuple[str, dict[str, Any]]]) -> None:
    """Nobody would read the rest; that the client left is not logged as slowness."""
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pieces = 0

    async def large(scope: Scope, _receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            nonlocal pieces
            await send(message)
            pieces += message["type"] == "http.response.body"
            if pieces == 2:
                lost.set_result(None)

        await send_response(scope, counting, 200, b"x" * 1_000_000, b"text/plain")

    sent = await sent_by(Guard(large), request_scope(state={"lost": lost}))

    assert len(sent) == 3
    assert lines == []


async def test_a_client_that_leaves_while_its_problem_is_sent_is_no_fault() -> None:
    """The problem is counted anyway."""
    counted: list[Code] = []
    guard = Guard(Raising(RequestError(Code.NOT_FOUND, "no")), counted.append)

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def gone(_: Message) -> None:
        raise ClientGoneError

    await guard(request_scope(), nothing, gone)

    assert counted == [Code.NOT_FOUND]


async def test_cancellation_is_not_answered_for() -> None:
    """Whoever cancels a request's task closes the connection, too."""
    with pytest.raises(asyncio.CancelledError):
        await sent_by(Guard(Raising(asyncio.CancelledError())), request_scope())


async def test_what_is_no_request_passes() -> None:
    """Such as a server's start and end; their exceptions are the server's."""
    with pytest.raises(KeyError):
        await sent_by(Guard(Raising(KeyError())), {"type": "lifespan"})


async def test_an_answer_without_a_fault_passes_as_it_is() -> None:
    """Nothing is counted."""
    counted: list[Code] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(scope, send, 200, b"[]", b"application/json", [(b"x-one", b"1")])

    answer = await ask(Guard(app, counted.append), "GET", "/")

    assert (answer.status, answer.body, answer.headers["X-One"], counted) == (200, b"[]", "1", [])
