"""The API descriptions (OpenAPI 3.1), openapi.yaml and, for operators, operators.yaml; completed for a running proxy.

They are read on the first request: most processes never get one, and the start should not be slowed down by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.http import problems
from proxy.http.asgi import send_response
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.version import VERSION

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from shared.settings import Settings

__all__ = [
    "METHODS",
    "OPERATORS_SOURCE",
    "PROBLEM",
    "SOURCE",
    "Description",
    "document",
    "operations",
    "operators_document",
    "resolved",
]

METHODS: Final = ("get", "post", "put", "delete")
PROBLEM: Final = "application/problem+json"
SOURCE: Final = Path(__file__).with_name("openapi.yaml")
OPERATORS_SOURCE: Final = Path(__file__).with_name("operators.yaml")

_ID: Final = "9f86d081884c7d659a2feaa0c55ad015"
#: `submitted` in the example of a code; `no` for all others.
_SUBMITTED: Final = {
    Code.MALFORMED_REQUEST: Submitted.UNKNOWN,
    Code.NOT_FOUND: Submitted.UNKNOWN,
    Code.METHOD_NOT_ALLOWED: Submitted.UNKNOWN,
    Code.IDEMPOTENCY_KEY_REUSED: Submitted.UNKNOWN,
    Code.HEADERS_TOO_LARGE: Submitted.UNKNOWN,
    Code.NOT_IMPLEMENTED: Submitted.UNKNOWN,
    Code.HTTP_VERSION_NOT_SUPPORTED: Submitted.UNKNOWN,
    Code.WORKER_DIED: Submitted.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Submitted.YES,
    Code.BAD_JOB_SERVER_REPLY: Submitted.UNKNOWN,
    Code.JOB_FAILED: Submitted.YES,
    Code.CANCELLED: Submitted.YES,
    Code.INTERRUPTED: Submitted.UNKNOWN,
}


class Description:
    """`GET /openapi.json`."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        """`make` returns the description; it is called once, when it is first asked for."""
        self._make = make

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the description."""
        body = self._body
        if scope["root_path"]:  # a gateway's prefix: all paths are below it
            body = json.dumps(self.document | {"servers": [{"url": scope["root_path"]}]}, indent=1).encode()
        await send_response(scope, send, 200, body, b"application/json")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The description; read-only."""
        return self._make()

    @cached_property
    def _body(self) -> bytes:
        return json.dumps(self.document, indent=1).encode()


def document(settings: Settings) -> dict[str, Any]:
    """Return the description of the routes on `PORT` with these `settings`."""
    described = _read(SOURCE)
    described["info"]["description"] += "\n" + _limits(settings)
    if settings.callback_port is not None:
        for path in [path for path in described["paths"] if path.startswith("/callback/")]:
            del described["paths"][path]
    _complete(described)
    for operation in operations(described):
        if not settings.api_keys:
            operation.pop("security", None)
        if settings.granular_errors:
            operation["responses"] = _granular(described, operation["responses"])
    return described


def operators_document(settings: Settings) -> dict[str, Any]:
    """Return the description of the routes on `ADMIN_PORT` with these `settings`."""
    described = _read(OPERATORS_SOURCE)
    _add_components(described, _read(SOURCE))
    _complete(described)
    if not (settings.admin_keys or settings.admin_user_header):
        del described["security"]
        for operation in operations(described):
            operation.pop("security", None)
    return described


def operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every operation of every path."""
    for item in described["paths"].values():
        yield from (item[method] for method in METHODS if method in item)


def resolved(described: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return `part`, or the target of its `$ref`."""
    if "$ref" not in part:
        return part
    _, components, kind, name = part["$ref"].split("/")
    found: dict[str, Any] = described[components][kind][name]
    return found


def _complete(described: dict[str, Any]) -> None:
    """Add the version, and the examples of problems."""
    described["info"]["version"] = VERSION
    for response in described["components"]["responses"].values():
        if PROBLEM in response.get("content", ()):
            response["content"][PROBLEM]["examples"] = {code: _example(code) for code in _codes(response)}
    explained = described["paths"]["/problems/{code}"]["get"]["responses"]["200"]["content"]["application/json"]
    explained["examples"] = {
        str(code): {"summary": entry.title, "value": problems.explanation(code)}
        for code, entry in problems.TABLE.items()
    }


def _add_components(described: dict[str, Any], other: dict[str, Any]) -> None:
    """Add the components that `described` refers to and only `other` has."""
    named = [described]
    while named:
        for reference in _references(named.pop()):
            _, components, kind, name = reference.split("/")
            of_kind = described[components].setdefault(kind, {})
            if name not in of_kind:
                of_kind[name] = other[components][kind][name]
                named.append(of_kind[name])


def _references(part: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a document
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _references(inner)


def _read(source: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - would add 20 ms to every start, and is rarely needed

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: blocks the event loop for 7 ms instead of 40
    read = yaml.load(source.read_text(encoding="utf-8"), loader)  # noqa: S506 - both are safe loaders
    copied: dict[str, Any] = json.loads(json.dumps(read))  # a copy, as an alias would be the same object as its anchor
    return copied


def _limits(settings: Settings) -> str:
    key = "Every request about a job needs a key. " if settings.api_keys else ""
    return (
        f"{key}Here a job may take {settings.job_timeout:g} s and a body may have {settings.max_body_bytes} bytes; a "
        f"finished job is remembered for {settings.result_ttl:g} s."
    )


def _codes(response: dict[str, Any]) -> list[str]:
    schema: dict[str, Any] = response["content"][PROBLEM]["schema"]
    codes: list[str] = schema["properties"]["code"]["enum"]
    return codes


def _granular(described: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    """Return an operation's responses, by their statuses with GRANULAR_ERRORS."""
    granular: dict[str, Any] = {}
    by_status: dict[str, list[str]] = {}
    headers: dict[str, dict[str, Any]] = {}
    for status, response in responses.items():
        whole = resolved(described, response)
        if PROBLEM not in whole.get("content", ()):
            granular[status] = response
            continue
        for code in _codes(whole):
            granular_status = str(problems.TABLE[Code(code)].granular)
            by_status.setdefault(granular_status, []).append(code)
            headers.setdefault(granular_status, {}).update(whole.get("headers", {}))
    for status, codes in by_status.items():
        usual = responses.get(status)
        same = usual is not None and _codes(resolved(described, usual)) == codes
        granular[status] = usual if same else _problem_response(codes, headers[status])
    return dict(sorted(granular.items()))


def _problem_response(codes: list[str], headers: dict[str, Any]) -> dict[str, Any]:
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}], "properties": {"code": {"enum": codes}}}
    return {
        "description": " · ".join(problems.TABLE[Code(code)].title for code in codes),
        "headers": headers,
        "content": {
            PROBLEM: {"schema": schema, "examples": {code: _example(code, granular=True) for code in codes}},
        },
    }


def _example(code: str, *, granular: bool = False) -> dict[str, Any]:
    """Return an example of the problem `code`, created as a real one is."""
    entry = problems.TABLE[Code(code)]
    about_a_job = entry.status == 500  # noqa: PLR2004 - HTTP
    made = problems.make(
        Code(code),
        entry.meaning,
        job_id=_ID if about_a_job else None,
        submitted=_SUBMITTED.get(Code(code), Submitted.NO),
        result=b'{"id": "4a40f6c1bf585ca9", "state": "failed"}' if code == Code.JOB_FAILED else None,
        granular=granular,
    )
    return {"summary": entry.title, "value": json.loads(made.body)}
