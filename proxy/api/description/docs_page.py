"""`GET /docs`: the API description as a page, and `GET /problems/<code>`: one code explained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.routing import Route

from proxy.api.description import openapi
from proxy.api.description.html import PAGE_HEADERS, code_span, page, prefers_html, words
from proxy.http import problems
from proxy.http.asgi import send_response
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.description.openapi import Description

__all__ = ["DocsPage", "ProblemPage", "routes"]


def routes(description: Description) -> list[Route]:
    """Return the routes that describe an address's routes and its problems."""
    return [
        Route("/problems/{code}", ProblemPage(), methods=["GET"]),
        Route("/openapi.json", description, methods=["GET"]),
        Route("/docs", DocsPage(description), methods=["GET"]),
    ]


class DocsPage:
    """`GET /docs`."""

    def __init__(self, description: Description) -> None:
        self._description = description

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the page."""
        await send_response(scope, send, 200, self.body, b"text/html; charset=utf-8", PAGE_HEADERS)

    @cached_property
    def body(self) -> bytes:
        """The page; rendered on the first request."""
        described = self._description.document
        return page(described["info"]["title"], "".join(_document(described)))


class ProblemPage:
    """`GET /problems/<code>`: what a code means; HTML if the client prefers it, otherwise JSON."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Explain a code."""
        code = scope["path_params"]["code"]
        if code not in set(Code):
            raise RequestError(Code.NOT_FOUND, "there is no such problem")
        vary = (b"vary", b"accept")
        if prefers_html(scope):
            body = _explanation(Code(code))
            await send_response(scope, send, 200, body, b"text/html; charset=utf-8", (*PAGE_HEADERS, vary))
            return
        document = json.dumps(problems.explanation(Code(code))).encode()
        await send_response(scope, send, 200, document, b"application/json", (vary,))


def _explanation(code: Code) -> bytes:
    entry = problems.TABLE[code]
    status = f"{entry.status}"
    if entry.granular != entry.status:
        status += f", or {entry.granular} where <code>GRANULAR_ERRORS</code> is on"
    return page(
        f"{code}: {entry.title}",
        f"<h1>{escape(entry.title)}</h1><p>{code_span(str(code))} · status {status}</p>"
        f"<h2>What happened</h2><p>{words(entry.meaning)}</p><h2>What to do</h2><p>{words(entry.advice)}</p>"
        '<p><a href="../docs">All routes and all codes</a></p>',
    )


def _document(described: dict[str, Any]) -> Iterator[str]:
    info = described["info"]
    yield f"<h1>{escape(info['title'])}</h1><p>{words(info['summary'])}</p>"
    yield "".join(f"<p>{words(paragraph)}</p>" for paragraph in info["description"].split("\n"))
    yield '<p><a href="openapi.json">This description as OpenAPI 3.1</a></p>'
    for tag in described["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p>{words(tag['description'])}</p>"
        for path, item in described["paths"].items():
            for method in openapi.METHODS:
                if method in item and tag["name"] in item[method]["tags"]:
                    yield from _operation(described, path, method)
    yield "<h2>Codes</h2>"
    yield "".join(_codes())


def _operation(described: dict[str, Any], path: str, method: str) -> Iterator[str]:
    item = described["paths"][path]
    operation = item[method]
    name = escape(operation["operationId"])
    yield f'<h3 id="{name}"><span class="method">{method}</span>{code_span(path)} · {escape(operation["summary"])}</h3>'
    yield f"<p>{words(operation['description'])}</p>"
    parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
    if parameters:
        yield _table(("Parameter", "In", "Meaning"), [
            (code_span(p["name"]), escape(p["in"]), f"{words(p['description'])} Example: {_shown(p['example'])}")
            for p in (openapi.resolved(described, parameter) for parameter in parameters)
        ])  # fmt: skip
    if "requestBody" in operation:
        yield f"<p>Body: {words(operation['requestBody']['description'])}</p>"
        yield from _examples(operation["requestBody"]["content"])
    for status, referred in operation["responses"].items():
        response = openapi.resolved(described, referred)
        yield f"<details><summary>{code_span(status)} {words(response['description'])}</summary>"
        headers = response.get("headers", {})
        if headers:
            rows = [
                (code_span(key), words(openapi.resolved(described, value)["description"]))
                for key, value in headers.items()
            ]
            yield _table(("Header", "Meaning"), rows)
        yield from _examples(response.get("content", {}))
        yield "</details>"


def _shown(example: Any) -> str:  # noqa: ANN401 - any JSON
    """Return markup of a parameter's example, as it is written in an address."""
    return code_span(urlencode(example) if isinstance(example, dict) else str(example))


def _examples(content: dict[str, Any]) -> Iterator[str]:
    for media_type, body in content.items():
        for example in body.get("examples", {}).values():
            text = json.dumps(example["value"], indent=2, ensure_ascii=False)
            yield f'<p class="soft">{escape(example["summary"])} · {escape(media_type)}</p>'
            yield f"<pre><code>{escape(text)}</code></pre>"


def _codes() -> Iterator[str]:
    rows = []
    for code, entry in problems.TABLE.items():
        status = str(entry.status) if entry.status == entry.granular else f"{entry.status} / {entry.granular}"
        link = f'<a href="problems/{code}">{code_span(str(code))}</a>'
        rows.append((link, status, f"{words(entry.meaning)} <span class='soft'>{words(entry.advice)}</span>"))
    yield "<p>The second status is the one where <code>GRANULAR_ERRORS</code> is on.</p>"
    yield _table(("Code", "Status", "Meaning"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
