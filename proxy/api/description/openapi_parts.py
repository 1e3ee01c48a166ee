"""The pieces that the description of the routes is made of: parameters, bodies, schemas, examples."""

from __future__ import annotations

import json
from typing import Any, Final

from proxy.http import problems
from shared.errors import Code
from shared.lifecycle import State, Submitted

__all__ = [
    "ALIVE",
    "CALLBACK",
    "CODE",
    "DESCRIBED",
    "EXPLAINED",
    "IDEMPOTENCY_KEY",
    "JOB",
    "JOB_ID",
    "NOT_DONE",
    "PAGE",
    "PREFER",
    "READY",
    "RESULT",
    "SCHEMAS",
    "STATUS",
    "TAKEN",
    "TOKEN",
    "TRACEPARENT",
    "problem_example",
    "problem_headers",
]

_Part = dict[str, Any]

_ID: Final = "9f86d081884c7d659a2feaa0c55ad015"
_RESULT: Final = {
    "id": "4a40f6c1bf585ca9",
    "state": "completed",
    "startedAt": "2015-06-29T15:28:55.497Z",
    "proof": "E850075A4063332DE3D1C254E2A255424361DBDC",
}
_WAITING: Final = {
    "id": _ID,
    "state": "waiting",
    "submitted": "yes",
    "accepted_at": "2026-01-05T09:30:00.000Z",
    "deadline_at": "2026-01-05T09:30:30.000Z",
    "finished_at": None,
    "outcome": None,
    "code": None,
    "detail": None,
    "late": False,
    "earlier_answer": None,
    "callbacks": {"accepted": 0, "early": 0, "late": 0, "duplicate": 0},
    "result": f"/jobs/{_ID}/result",
}
_DONE: Final = _WAITING | {
    "state": "finished",
    "finished_at": "2026-01-05T09:30:00.540Z",
    "outcome": "succeeded",
    "callbacks": {"accepted": 1, "early": 0, "late": 0, "duplicate": 0},
}
_LATE: Final = _DONE | {
    "finished_at": "2026-01-05T09:30:30.000Z",
    "late": True,
    "earlier_answer": {"code": "deadline-exceeded", "detail": "no callback came in time", "submitted": "yes"},
    "callbacks": {"accepted": 1, "early": 0, "late": 1, "duplicate": 0},
}

# --- parameters ------------------------------------------------------------------------------------------------------


def _path_parameter(name: str, words: str, example: str) -> _Part:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": words,
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    }


def _header_parameter(name: str, words: str, schema: _Part, example: str) -> _Part:
    return {"name": name, "in": "header", "description": words, "schema": schema, "example": example}


JOB_ID: Final = _path_parameter("id", "The job's id, as the header `Job-Id` has it.", _ID)
TOKEN: Final = _path_parameter("token", "The job's callback token.", "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA")
CODE: Final = _path_parameter("code", "A problem's code.", "deadline-exceeded")
IDEMPOTENCY_KEY: Final = _header_parameter(
    "Idempotency-Key",
    "One key, one job, however often it is sent: a request under a key that is in use joins that job or gets its "
    "outcome again. A string in quotes; a plain word will do. A job whose outcome says `submitted: no` may be begun "
    "anew under its key.",
    {"type": "string", "pattern": '^("[ !#-\\[\\]-~]{1,200}"|[A-Za-z0-9!#$%&*+.^_`|~:/@=-]{1,200})$'},
    '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
)
PREFER: Final = _header_parameter(
    "Prefer",
    "How long to wait (RFC 7240): `wait=N` for at most N seconds, `respond-async` not at all. What is not understood "
    "is passed over.",
    {"type": "string"},
    "wait=25",
)
TRACEPARENT: Final = _header_parameter(
    "traceparent",
    "W3C trace context; passed on to the job server, and part of the answer. What does not look like one is dropped.",
    {"type": "string"},
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)

# --- what is sent ----------------------------------------------------------------------------------------------------


def _json(schema: str, examples: dict[str, _Part]) -> _Part:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}}


def _example(summary: str, value: object) -> _Part:
    return {"summary": summary, "value": value}


JOB: Final = {
    "required": True,
    "description": "The job, as the job server wants it.",
    "content": _json(
        "Job",
        {
            "plain": _example("A job", {"account": "example"}),
            "asynchronous": _example("Do not wait for the result", {"account": "example", "wait": False}),
        },
    ),
}
CALLBACK: Final = {
    "required": True,
    "description": "What the job server has to say. A `state` of `failed` or `error` is a failure of the job.",
    "content": _json(
        "Result",
        {
            "completed": _example("The job is done", _RESULT),
            "failed": _example("The job failed", {"id": "4a40f6c1bf585ca9", "state": "failed"}),
        },
    ),
}

# --- what is answered ------------------------------------------------------------------------------------------------


def _header(words: str, example: str) -> _Part:
    return {"description": words, "schema": {"type": "string"}, "example": example}


_JOB_ID_HEADER: Final = {"Job-Id": _header("The job's id.", _ID)}
_RETRY_AFTER: Final = {"Retry-After": _header("When to ask again, in seconds.", "1")}
_PREFERENCE_APPLIED: Final = {"Preference-Applied": _header("The preference that was followed.", "wait=25")}
_TRACE: Final = {
    name: _header("Where the job stands in its trace; there if it has one.", str(TRACEPARENT["example"]))
    for name in ("traceparent", "traceresponse")
}
_REPLAYED: Final = {"Idempotent-Replayed": _header("`true` where the job was there before the request.", "true")}


def _link(operation: str, words: str) -> _Part:
    return {"operationId": operation, "description": words, "parameters": {"id": "$response.header.Job-Id"}}


#: Where to go from an answer about a job.
_LINKS: Final = {
    "status": _link("getJob", "How the job stands."),
    "result": _link("getResult", "The job's result."),
    "cancel": _link("cancelJob", "Cancel the job."),
}


def _answer(words: str, content: _Part, headers: _Part | None = None, links: _Part | None = None) -> _Part:
    answer: _Part = {"description": words, "content": content}
    return answer | ({"headers": headers} if headers else {}) | ({"links": links} if links else {})


RESULT: Final = _answer(
    "The callback's body, byte for byte.",
    _json("Result", {"completed": _example("The job is done", _RESULT)}),
    _JOB_ID_HEADER | _PREFERENCE_APPLIED | _REPLAYED | _TRACE,
    _LINKS,
)
NOT_DONE: Final = _answer(
    "The job goes on; ask again at `Location`.",
    _json("JobStatus", {"waiting": _example("The job server has the job", _WAITING)}),
    _JOB_ID_HEADER
    | {"Location": _header("Where the job's status is.", f"/jobs/{_ID}")}
    | _RETRY_AFTER
    | _PREFERENCE_APPLIED
    | _REPLAYED
    | _TRACE,
    _LINKS,
)
STATUS: Final = _answer(
    "How the job stands.",
    _json(
        "JobStatus",
        {
            "waiting": _example("The job server has the job", _WAITING),
            "succeeded": _example("The job is over", _DONE),
            "late": _example("The result came after the client was told that there is none", _LATE),
        },
    ),
    _JOB_ID_HEADER,
)
TAKEN: Final = _answer(
    "The callback was taken.",
    _json(
        "Taken",
        {
            "accepted": _example("The first one, in time", {"status": "accepted"}),
            "duplicate": _example("Not the first one", {"status": "duplicate"}),
            "late": _example("The first one, after the deadline", {"status": "late"}),
        },
    ),
)
ALIVE: Final = _answer("It serves.", _json("Health", {"ok": _example("It serves", {"status": "ok"})}))
READY: Final = _answer("It takes jobs.", _json("Health", {"ready": _example("It takes jobs", {"status": "ready"})}))
_HTML: Final = {"text/html": {"schema": {"type": "string"}, "example": "<!DOCTYPE html>…"}}
PAGE: Final = _answer("A page for people.", _HTML)
DESCRIBED: Final = _answer(
    "An OpenAPI document.",
    {"application/json": {"schema": {"type": "object"}, "example": {"openapi": "3.1.0"}}},
)


def _explained(code: Code) -> _Part:
    entry = problems.TABLE[code]
    return {
        "code": str(code),
        "status": entry.status,
        "granular_status": entry.granular,
        "title": entry.title,
        "meaning": entry.meaning,
        "advice": entry.advice,
    }


EXPLAINED: Final = _answer(
    "What the code means and what to do.",
    _json("Explanation", {str(code): _example(entry.title, _explained(code)) for code, entry in problems.TABLE.items()})
    | _HTML,
)

# --- problems --------------------------------------------------------------------------------------------------------

_SUBMITTED: Final = {
    Code.WORKER_DIED: Submitted.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Submitted.YES,
    Code.BAD_JOB_SERVER_REPLY: Submitted.UNKNOWN,
    Code.JOB_FAILED: Submitted.YES,
    Code.CANCELLED: Submitted.YES,
    Code.INTERRUPTED: Submitted.UNKNOWN,
}
_MADE_NO_JOB: Final = frozenset({Code.OVERLOADED, Code.SHUTTING_DOWN, Code.JOURNAL_UNAVAILABLE, Code.NO_WORKER})


def problem_example(code: Code, *, granular: bool) -> _Part:
    """Return an example of the problem `code`, made as a real one is."""
    entry = problems.TABLE[code]
    about_a_job = entry.status >= 500 and code not in _MADE_NO_JOB  # noqa: PLR2004 - HTTP
    made = problems.make(
        code,
        entry.meaning,
        job_id=_ID if about_a_job else None,
        submitted=_SUBMITTED.get(code, Submitted.NO),
        result=b'{"id": "4a40f6c1bf585ca9", "state": "failed"}' if code is Code.JOB_FAILED else None,
        granular=granular,
    )
    return _example(entry.title, json.loads(made.body))


def problem_headers(codes: tuple[Code, ...]) -> _Part:
    """Return the headers that come with these problems."""
    headers: _Part = {}
    if any(problems.TABLE[code].status >= 500 for code in codes):  # noqa: PLR2004 - HTTP
        headers |= _JOB_ID_HEADER
    if any(problems.TABLE[code].status == 503 for code in codes):  # noqa: PLR2004 - HTTP
        headers |= _RETRY_AFTER
    if Code.UNAUTHORIZED in codes:
        headers["WWW-Authenticate"] = _header("How to show who you are.", "Bearer")
    return headers


# --- schemas ---------------------------------------------------------------------------------------------------------

_NULLABLE_STRING: Final = {"type": ["string", "null"]}
_NULLABLE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_SUBMITTED_SCHEMA: Final = {
    "enum": [str(word) for word in Submitted],
    "description": "Whether the job server was given the job. Only with `no` is it safe to send it again.",
}


def _object(properties: _Part, optional: tuple[str, ...] = ()) -> _Part:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


SCHEMAS: Final[_Part] = {
    "Job": {
        "type": "object",
        "description": "A JSON object (RFC 8259, UTF-8). Members that are not named here go to the job server as well.",
        "properties": {
            "account": {"description": "Whose job it is; the job server wants a string."},
            "wait": {"description": "`false`: answer at once with 202. The job server always gets `false`."},
            "callback": False,
        },
    },
    "Result": {"description": "What the job server sent: any JSON."},
    "JobStatus": _object(
        {
            "id": {"type": "string"},
            "state": {"enum": [str(state) for state in State]},
            "submitted": _SUBMITTED_SCHEMA,
            "accepted_at": {"type": "string", "format": "date-time"},
            "deadline_at": {"type": "string", "format": "date-time"},
            "finished_at": _NULLABLE_TIME,
            "outcome": {"enum": ["succeeded", "failed", None]},
            "code": _NULLABLE_STRING,
            "detail": _NULLABLE_STRING,
            "late": {"type": "boolean"},
            "earlier_answer": {"type": ["object", "null"]},
            "callbacks": {"type": "object", "additionalProperties": {"type": "integer"}},
            "result": {"type": "string"},
        }
    ),
    "Taken": _object({"status": {"enum": ["accepted", "duplicate", "late"]}}),
    "Health": _object({"status": {"enum": ["ok", "ready"]}}),
    "Explanation": _object(
        {
            "code": {"enum": [str(code) for code in Code]},
            "status": {"type": "integer"},
            "granular_status": {"type": "integer"},
            "title": {"type": "string"},
            "meaning": {"type": "string"},
            "advice": {"type": "string"},
        }
    ),
    "Problem": _object(
        {
            "type": {"type": "string", "description": "An address that explains the code to a person."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"enum": [str(code) for code in Code]},
            "job_id": _NULLABLE_STRING,
            "submitted": _SUBMITTED_SCHEMA,
            "retry_safe": {"type": "boolean"},
            "result": {"description": "With `job-failed`: the callback's body."},
        },
        optional=("result",),
    ),
}
