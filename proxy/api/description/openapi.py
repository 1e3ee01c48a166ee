"""The description of the clients' routes (OpenAPI 3.1), built from what the code uses: codes, statuses, settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from proxy.api.description import openapi_parts as parts
from proxy.http import problems
from proxy.http.asgi import send_response
from shared.errors import Code

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from shared.settings import Settings

__all__ = ["Description", "document"]

_FAILURES: Final = tuple(code for code, entry in problems.TABLE.items() if entry.status == 500)  # noqa: PLR2004 - HTTP
_BEFORE_A_JOB: Final = (
    Code.INVALID_REQUEST,
    Code.UNAUTHORIZED,
    Code.REQUEST_TIMEOUT,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.IDEMPOTENCY_KEY_REUSED,
    Code.OVERLOADED,
)
#: How a job can end that no worker had.
_NOT_BEGUN: Final = (Code.NO_WORKER, Code.JOURNAL_UNAVAILABLE, Code.SHUTTING_DOWN)
_ABOUT_A_JOB: Final = (Code.UNAUTHORIZED, Code.NOT_FOUND, Code.INTERNAL_ERROR, Code.JOURNAL_UNAVAILABLE)


class Description:
    """`GET /openapi.json`."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._body = json.dumps(described, indent=1).encode()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the description."""
        await send_response(scope, send, 200, self._body, b"application/json")


def document(settings: Settings) -> dict[str, Any]:
    """Return the description of the routes on `PORT` as they are under `settings`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Async job proxy",
            "version": "1",
            "summary": "Post a job, get its result in the answer to the same request.",
            "description": _about(settings),
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "Jobs", "description": "What clients do."},
            {"name": "Job server", "description": "What the job server does."},
            {"name": "Service", "description": "Health, and what is documented."},
        ],
        "paths": _paths(settings),
        "components": {
            "schemas": parts.SCHEMAS,
            "responses": {
                "MethodNotAllowed": _problem_response((Code.METHOD_NOT_ALLOWED,), settings),
                "Forbidden": _problem_response((Code.FORBIDDEN,), settings),
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "One of the keys in API_KEYS."}
            },
        },
    }


def _about(settings: Settings) -> str:
    key = "Every request about a job needs a key. " if settings.api_keys else ""
    return (
        "Each job runs in a process of its own. The proxy hands it to the job server, waits for the job server's "
        f"callback, and answers with it. {key}"
        f"An answer comes within {settings.job_timeout:g} s, a body may have {settings.max_body_bytes} bytes, and a "
        f"finished job can be asked for during {settings.result_ttl:g} s. "
        "Every failure is a problem document (RFC 9457) whose `submitted` says whether the job server was given the "
        "job: `no`, `unknown` or `yes`. Only with `no` is it safe to send the job again."
    )


def _paths(settings: Settings) -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/queueJob": {"post": _queue_job("queueJob", "Run a job", settings)},
        "/start": {"post": _queue_job("start", "Run a job (the job server's own path)", settings)},
        "/jobs/{id}": _job_path(settings),
        "/jobs/{id}/result": {"parameters": [parts.JOB_ID], "get": _result(settings)},
    }
    if settings.callback_port is None:
        paths["/callback/{token}"] = _callback_path(settings)
    return paths | _service_paths(settings)


def _queue_job(name: str, summary: str, settings: Settings) -> dict[str, Any]:
    return _operation(
        name,
        "Jobs",
        summary,
        "The body goes to the job server, every member with its exact value, except `wait`, which is sent as `false`, "
        "and `callback`, which the proxy sets. Without a preference the answer comes when the job is over.",
        {
            "200": parts.RESULT,
            "202": parts.NOT_DONE,
            **_problems((*_BEFORE_A_JOB, *_FAILURES, *_NOT_BEGUN), settings),
        },
        settings,
        parameters=[parts.IDEMPOTENCY_KEY, parts.PREFER, parts.TRACEPARENT],
        requestBody=parts.JOB,
    )


def _job_path(settings: Settings) -> dict[str, Any]:
    return {
        "parameters": [parts.JOB_ID],
        "get": _operation(
            "getJob",
            "Jobs",
            "How a job stands",
            "Whoever has the id may ask; ids cannot be guessed.",
            {"200": parts.STATUS, **_problems(_ABOUT_A_JOB, settings)},
            settings,
        ),
        "delete": _operation(
            "cancelJob",
            "Jobs",
            "Cancel a job",
            "Its worker is stopped and a waiting client is answered `cancelled`. The job server is not told, as it has "
            "no such call: a job that it has goes on there. One that is over stays as it is.",
            {"200": parts.STATUS, **_problems(_ABOUT_A_JOB, settings)},
            settings,
        ),
    }


def _result(settings: Settings) -> dict[str, Any]:
    return _operation(
        "getResult",
        "Jobs",
        "A job's result",
        "What the request that brought the job was or would have been answered; 202 while there is no answer yet.",
        {
            "200": parts.RESULT,
            "202": parts.NOT_DONE,
            **_problems((Code.UNAUTHORIZED, Code.NOT_FOUND, *_FAILURES, *_NOT_BEGUN), settings),
        },
        settings,
        parameters=[parts.PREFER],
    )


def _callback_path(settings: Settings) -> dict[str, Any]:
    codes = (
        Code.INVALID_REQUEST,
        Code.NOT_FOUND,
        Code.REQUEST_TIMEOUT,
        Code.PAYLOAD_TOO_LARGE,
        Code.INTERNAL_ERROR,
        Code.JOURNAL_UNAVAILABLE,
    )

    def callback(name: str, summary: str) -> dict[str, Any]:
        return _operation(
            name,
            "Job server",
            summary,
            "The first one counts and becomes its client's answer. The token is all that says whose it is and that "
            "the sender may send it; every other token gets the same 404.",
            {"200": parts.TAKEN, **_problems(codes, settings)},
            None,
            requestBody=parts.CALLBACK,
        )

    return {
        "parameters": [parts.TOKEN],
        "post": callback("callBack", "Say that a job is done"),
        "put": callback("callBackWithPut", "Say that a job is done, with PUT"),
    }


def _service_paths(settings: Settings) -> dict[str, Any]:
    internal = _problems((Code.INTERNAL_ERROR,), settings)
    not_ready = _problems((Code.INTERNAL_ERROR, Code.NO_WORKER, Code.SHUTTING_DOWN), settings)
    unknown = _problems((Code.NOT_FOUND, Code.INTERNAL_ERROR), settings)

    def get(name: str, summary: str, words: str, responses: dict[str, Any]) -> dict[str, Any]:
        return {"get": _operation(name, "Service", summary, words, responses, None)}

    return {
        "/healthz": get("alive", "Is the process there", "200 as long as it serves.", {"200": parts.ALIVE, **internal}),
        "/readyz": get(
            "ready", "Should it be given jobs", "503 while it drains or cannot make workers.",
            {"200": parts.READY, **not_ready},
        ),
        "/problems/{code}": {
            "parameters": [parts.CODE],
            **get("problem", "What a code means", "HTML for a browser.", {"200": parts.EXPLAINED, **unknown}),
        },
        "/openapi.json": get("describe", "This description", "OpenAPI 3.1.", {"200": parts.DESCRIBED, **internal}),
        "/docs": get("docs", "This description, for people", "One page of HTML.", {"200": parts.PAGE, **internal}),
    }  # fmt: skip


def _operation(
    name: str,
    tag: str,
    summary: str,
    words: str,
    responses: dict[str, Any],
    secured_by: Settings | None,
    **more: Any,
) -> dict[str, Any]:
    described = {"operationId": name, "tags": [tag], "summary": summary, "description": words, **more}
    if secured_by is not None and secured_by.api_keys:
        described["security"] = [{"key": []}]
    return described | {"responses": dict(sorted(responses.items()))}


def _problems(codes: tuple[Code, ...], settings: Settings) -> dict[str, Any]:
    """Return the responses for `codes`: one for each status, with an example of each code."""
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        entry = problems.TABLE[code]
        by_status.setdefault(entry.granular if settings.granular_errors else entry.status, []).append(code)
    return {str(status): _problem_response(tuple(those), settings) for status, those in by_status.items()}


def _problem_response(codes: tuple[Code, ...], settings: Settings) -> dict[str, Any]:
    examples = {str(code): parts.problem_example(code, granular=settings.granular_errors) for code in codes}
    response: dict[str, Any] = {
        "description": " · ".join(problems.TABLE[code].title for code in codes),
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/Problem"}],
                    "properties": {"code": {"enum": [str(code) for code in codes]}},
                },
                "examples": examples,
            }
        },
    }
    headers = parts.problem_headers(codes)
    return response | ({"headers": headers} if headers else {})
