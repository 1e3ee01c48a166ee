"""Plain ASGI: a request without a socket, and the answer that an application gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multidict import CIMultiDict
from starlette.types import ASGIApp, Message, Scope

from tests.support.http import Answer

__all__ = ["ask", "request_scope", "sent_by"]


def request_scope(method: str = "GET", path: str = "/", **members: Any) -> Scope:
    """Return the scope of a request; `headers` is a mapping."""
    headers: Mapping[str, str] = members.pop("headers", {})
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 3000),
        "extensions": {},
        "path_params": {},
        **members,
    }


async def sent_by(app: ASGIApp, scope: Scope, body: bytes = b"") -> list[Message]:
    """Return the messages that `app` sends to answer a request whose body comes in two pieces."""
    half = len(body) // 2
    pieces: list[Message] = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def ask(app: ASGIApp, method: str, path: str, *, body: bytes = b"", **members: Any) -> Answer:
    """Return the answer of `app` to a request, and check that it is complete."""
    first, *rest = await sent_by(app, request_scope(method, path, **members), body)
    assert first["type"] == "http.response.start"
    assert [piece["type"] for piece in rest] == ["http.response.body"] * len(rest)
    assert [bool(piece.get("more_body")) for piece in rest] == [True] * (len(rest) - 1) + [False]
    headers = CIMultiDict((name.decode(), value.decode("latin-1")) for name, value in first["headers"])
    answer = Answer(first["status"], headers, b"".join(piece["body"] for piece in rest))
    assert method == "HEAD" or int(headers.get("Content-Length", len(answer.body))) == len(answer.body)
    return answer
