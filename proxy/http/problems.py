"""The one table from error to HTTP (RFC 9457), and the explanation of each code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from shared.errors import Code
from shared.job_server.submissions import pause_in
from shared.lifecycle import Submitted
from shared.outcome import Failed

__all__ = ["CONTENT_TYPE", "TABLE", "Entry", "Problem", "explanation", "make", "of_failure", "unanswered", "unread"]


class Entry(NamedTuple):
    """What a code means."""

    status: int
    #: The status where GRANULAR_ERRORS is on.
    granular: int
    #: A short title, the same for every occurrence.
    title: str
    #: What happened, for people.
    meaning: str
    #: What to do about it.
    advice: str


_MAY_HAVE_RUN: Final = "Send the job again if `submitted` is `no`. Otherwise it may have run: ask the job server first."

TABLE: Final = MappingProxyType(
    {
        Code.INVALID_REQUEST: Entry(
            400, 400, "The request is not valid",
            "The body is not a JSON object as RFC 8259 defines it (or has a duplicate name, NaN, a lone surrogate, "
            "too many levels, or a number of thousands of digits), or it has a member that only the proxy sets "
            "(`callback`, with the profile `spreedly`). Or a query on the admin address has a parameter that is "
            "unknown or invalid: `parameter` is its name.",
            "Fix the request; `detail` says what is wrong with it. The same request will fail again.",
        ),
        Code.MALFORMED_REQUEST: Entry(
            400, 400, "The request is not valid HTTP/1.1",
            "The request does not follow RFC 9112, or could be understood in two ways. The connection is closed.",
            "Fix the client, or whatever is between it and the proxy; `detail` says what is wrong.",
        ),
        Code.UNAUTHORIZED: Entry(
            401, 401, "A key is required",
            "The request has no API key that this proxy knows; on the admin address, no admin key and no session.",
            "Send `Authorization: Bearer <key>` with a key from the proxy's operator; operators' browsers log in at "
            "`/login`.",
        ),
        Code.FORBIDDEN: Entry(
            403, 403, "The request is not allowed",
            "On the admin address: the request would change something, and did not come from the dashboard's own page "
            "or from an operator with the role `act`; or its `Host` is not a name of the admin address. Or the "
            "`ReplyTo` of a message of the queue is not one of `SQS_REPLY_TO`.",
            "Use the dashboard, or send an admin key of the role `act`; use an IP address, `localhost`, `ADMIN_HOST` "
            "or one of `ADMIN_NAMES` in the URL. For a message, name a queue that the proxy may reply to.",
        ),
        Code.NOT_FOUND: Entry(
            404, 404, "Not found",
            "No such route, no such job, or a job that is no longer remembered.",
            "Check the URL; `/docs` lists the routes. A finished job is remembered for `RESULT_TTL` seconds.",
        ),
        Code.METHOD_NOT_ALLOWED: Entry(
            405, 405, "Method not allowed",
            "The route exists, but not with this method.",
            "See the `Allow` header.",
        ),
        Code.REQUEST_TIMEOUT: Entry(
            408, 408, "The request body did not arrive in time",
            "The headers arrived, but not the complete body. No job was created.",
            "Send the request again.",
        ),
        Code.PAYLOAD_TOO_LARGE: Entry(
            413, 413, "The body is too large",
            "The body is larger than `MAX_BODY_BYTES`.",
            "Send less, or ask the operator to raise the limit.",
        ),
        Code.UNSUPPORTED_MEDIA_TYPE: Entry(
            415, 415, "The type of the body is not supported",
            "The `Content-Type` is not the one that this route, or the job's profile, takes (`application/json`, "
            "unless the profile says otherwise), or the `Content-Encoding` is not gzip.",
            "Send what `detail` names.",
        ),
        Code.IDEMPOTENCY_KEY_REUSED: Entry(
            422, 422, "The idempotency key belongs to another request",
            "The key was used with another body, path, query or `Content-Type`, or for another profile. Nothing was "
            "submitted for this request, but the job that has the key may have run: `submitted` is `unknown`.",
            "Use one key for one job, and a new key for a new job.",
        ),
        Code.TOO_MANY_ATTEMPTS: Entry(
            429, 429, "Too many wrong keys",
            "So many wrong admin keys came from this address that no key from it is checked for a while.",
            "Send the right key after `Retry-After` seconds. If others share the address, it may be a gateway's: with "
            "`TRUSTED_PROXIES` the proxy tells the gateway's clients apart.",
        ),
        Code.HEADERS_TOO_LARGE: Entry(
            431, 431, "The headers are too large",
            "The request line and the headers are larger than 16 KiB, or there are more than 100 headers. The "
            "connection is closed.",
            "Send fewer or shorter headers: cookies, for example, which the proxy does not use.",
        ),
        Code.INTERNAL_ERROR: Entry(
            500, 500, "Internal error",
            "An unhandled exception in the proxy. The log has a line about it.",
            "Report it. " + _MAY_HAVE_RUN,
        ),
        Code.NOT_IMPLEMENTED: Entry(
            501, 501, "The transfer coding is not implemented",
            "The body has a `Transfer-Encoding` other than `chunked`. The connection is closed.",
            "Send the body with a `Content-Length` or in chunks.",
        ),
        Code.OVERLOADED: Entry(
            503, 503, "Too many jobs in flight",
            "`MAX_JOBS` is reached, or the machine is short of memory, process ids or file descriptors. No job was "
            "created.",
            "Retry after `Retry-After` seconds.",
        ),
        Code.NO_WORKER: Entry(
            503, 503, "No worker could be started",
            "The proxy could not start a worker process. Nothing was submitted.",
            "Retry after `Retry-After` seconds; if it keeps failing, the log says what the machine is short of.",
        ),
        Code.JOURNAL_UNAVAILABLE: Entry(
            503, 503, "The journal is unavailable",
            "The journal, a file or a database, cannot be read or written. Nothing was submitted for this request; "
            "jobs in flight continue.",
            "Retry after `Retry-After` seconds; if it keeps failing, the log says what is wrong with the journal.",
        ),
        Code.INTAKE_PAUSED: Entry(
            503, 503, "The proxy takes no new jobs for now",
            "An operator has paused it. Jobs in flight continue, and their status and results can be fetched. No job "
            "was created.",
            "Retry after `Retry-After` seconds, or at another instance.",
        ),
        Code.SHUTTING_DOWN: Entry(
            503, 503, "The proxy is shutting down",
            "It is draining: jobs in flight are finished, and new ones are refused. No job was created.",
            "Retry after `Retry-After` seconds, or at another instance.",
        ),
        Code.HTTP_VERSION_NOT_SUPPORTED: Entry(
            505, 505, "This version of HTTP is not supported",
            "The proxy supports HTTP/1.1. The connection is closed.",
            "Use HTTP/1.1, or put a gateway in front that supports the other version.",
        ),
        Code.WORKER_DIED: Entry(
            500, 500, "The job's worker died",
            "The process that ran the job crashed or was killed before it reported an outcome. No other job was "
            "affected.",
            _MAY_HAVE_RUN,
        ),
        Code.DEADLINE_EXCEEDED: Entry(
            500, 504, "The deadline passed",
            "No callback came within `JOB_TIMEOUT`. The job server is told only if its profile has a call for it.",
            _MAY_HAVE_RUN,
        ),
        Code.JOB_SERVER_UNAVAILABLE: Entry(
            500, 502, "The job server could not be reached",
            "No connection to the job server, or the connection broke before the reply to the submission and no "
            "callback came.",
            _MAY_HAVE_RUN,
        ),
        Code.JOB_REJECTED: Entry(
            500, 502, "The job server rejected the job",
            "It answered the submission with a status other than 2xx, after any retries, or with what its profile "
            "calls a refusal. `submitted` is `no` for that, for 4xx and for 503 with `Retry-After`, otherwise "
            "`unknown`. If the job server still calls back, `submitted` is `yes` from then on. `detail` has the job "
            "server's own message, and its `Retry-After` is passed on.",
            _MAY_HAVE_RUN,
        ),
        Code.BAD_JOB_SERVER_REPLY: Entry(
            500, 502, "The job server's reply was invalid",
            "Its reply to the submission does not follow the protocol, or is too large.",
            _MAY_HAVE_RUN,
        ),
        Code.JOB_FAILED: Entry(
            500, 502, "The job failed",
            "The job ran, and the job server reported that it failed, by callback or when asked; its profile says "
            "which states are failures. `detail` has the job server's reason, if it gave one, and `result` what it "
            "sent.",
            "See `result`. Sending the job again runs it again.",
        ),
        Code.CANCELLED: Entry(
            500, 500, "The job was cancelled",
            "A client or an operator cancelled it. The job server is told only if its profile has a call for it.",
            _MAY_HAVE_RUN,
        ),
        Code.INTERRUPTED: Entry(
            500, 500, "The proxy stopped while the job was in flight",
            "The proxy stopped before the outcome was known, and has been restarted.",
            _MAY_HAVE_RUN,
        ),
    }
)  # fmt: skip

CONTENT_TYPE: Final = b"application/problem+json"
_DEFAULT_RETRY_AFTER_S: Final = 1


#: The beginning of every document, before the path that explains its code.
_TYPE: Final = b'{"type": "'


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem document, ready to send."""

    code: Code
    status: int
    detail: str
    body: bytes
    headers: list[tuple[bytes, bytes]]

    def below(self, prefix: str) -> bytes:
        """Return the body for a client whose paths all begin with `prefix`."""
        return self.body.replace(_TYPE, _TYPE + prefix.encode(), 1) if prefix else self.body

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The headers, with those that describe the body: for an answer that does not come from the application."""
        length = (b"content-length", b"%d" % len(self.body))
        return [(b"content-type", CONTENT_TYPE), length, *self.headers]


def make(
    code: Code,
    detail: str,
    *,
    job_id: str | None = None,
    submitted: Submitted = Submitted.NO,
    result: bytes | None = None,
    granular: bool = False,
    retry_after_s: int | None = None,
    parameter: str | None = None,
) -> Problem:
    """Return the problem `code`, with `detail` about this occurrence; `parameter` is the invalid one."""
    entry = TABLE[code]
    status = entry.granular if granular else entry.status
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": entry.title,
        "status": status,
        "detail": detail,
        "code": str(code),
        "job_id": job_id,
        "submitted": str(submitted),
        "retry_safe": submitted is Submitted.NO,
    }
    if parameter is not None:
        document["parameter"] = parameter
    headers = [(b"job-id", job_id.encode())] if job_id else []
    if status in {429, 503}:  # the ones that promise that a retry is worthwhile
        headers.append((b"retry-after", b"%d" % (retry_after_s or _DEFAULT_RETRY_AFTER_S)))
    if code is Code.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return Problem(code=code, status=status, detail=detail, body=_document(document, result), headers=headers)


def explanation(code: Code) -> dict[str, Any]:
    """Return the answer of `/problems/<code>` to a program."""
    entry = TABLE[code]
    return {
        "code": str(code),
        "status": entry.status,
        "granular_status": entry.granular,
        "title": entry.title,
        "meaning": entry.meaning,
        "advice": entry.advice,
    }


def unread(code: Code, detail: str) -> Problem:
    """Return the problem `code` of a request that was refused before its job was known."""
    return make(code, detail, submitted=Submitted.UNKNOWN)


def unanswered(*, closing: bool) -> Problem:
    """Return the answer to a request that the application left without one. `closing`: it was not waited for."""
    if closing:
        return unread(Code.SHUTTING_DOWN, "the proxy stopped before the request was answered")
    return unread(Code.INTERNAL_ERROR, "the request ended without an answer")


def of_failure(failure: Failed, job_id: str, *, granular: bool) -> Problem:
    """Return the problem for a failed job's client, with the job server's Retry-After, if there is one."""
    problem = make(
        failure.code,
        failure.detail,
        job_id=job_id,
        submitted=failure.submitted,
        result=failure.result,
        granular=granular,
    )
    pause_s = pause_in(failure.detail) if failure.code is Code.JOB_REJECTED else None
    if pause_s is not None and all(name != b"retry-after" for name, _ in problem.headers):
        problem.headers.append((b"retry-after", b"%d" % pause_s))
    return problem


def _document(document: dict[str, Any], result: bytes | None) -> bytes:
    text = json.dumps(document).encode()
    if result is None:
        return text
    return text[:-1] + b', "result": ' + result + b"}"  # unchanged: parsing could change its numbers
