"""The answer to one request, and whether the job may be sent again.

The question behind every rule here is whether the job can have run. A request that was never sent did not
start one. An answer says so itself (`retry_safe`). If the connection broke after the request was sent, the job
may have run: a retry might run it twice, unless the request has an idempotency key.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus

#: Temporary errors, if the answer comes from a gateway or has no problem code.
_TEMPORARY = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
#: A problem of this type says no more than its status (RFC 9457, 4.2.1): it is from a gateway, which knows no jobs.
_NO_TYPE = "about:blank"
_EXAMPLE_CHARACTERS = 200


class Reached(Enum):
    """How far a request got."""

    NOTHING_SENT = "nothing sent"
    MAYBE_SENT = "maybe sent"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The job is done."""

    #: The job server's id; None if the answer had none.
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request got no result of the job."""

    #: The code of the problem, or our own if there is none.
    code: str
    detail: str
    reached: Reached
    #: The HTTP status; None if there was no answer.
    status: int | None = None
    #: The answer is a problem with a code: the proxy's own, not that of a gateway in front of it.
    is_problem: bool = False
    #: The answer says that the job certainly did not run.
    retry_safe: bool = False
    #: How long the answer asks to wait, in seconds.
    retry_after_s: float = 0.0


Answer = Succeeded | Failed


def classify(*, status: int, body: bytes, retry_after: str | None = None) -> Answer:
    """Return what an answer says about its job."""
    document = _object(body)
    if status == HTTPStatus.OK:
        return _classify_result(body, document)
    code = document.get("code") if document is not None else None
    if document is not None and isinstance(code, str):
        detail = document.get("detail") or document.get("title") or ""
        return Failed(
            code=code,
            detail=str(detail)[:_EXAMPLE_CHARACTERS],
            reached=Reached.ANSWERED,
            status=status,
            is_problem=document.get("type") != _NO_TYPE,
            retry_safe=document.get("retry_safe") is True,
            retry_after_s=seconds_to_wait(retry_after),
        )
    return Failed(
        code=f"status-{status}",
        detail=_excerpt(body),
        reached=Reached.ANSWERED,
        status=status,
        retry_after_s=seconds_to_wait(retry_after),
    )


def _classify_result(body: bytes, document: dict[str, object] | None) -> Answer:
    if document is None:
        return Failed(code="bad-answer", detail=_excerpt(body), reached=Reached.ANSWERED, status=HTTPStatus.OK.value)
    if document.get("state") != "completed":
        return Failed(code="not-completed", detail=_excerpt(body), reached=Reached.ANSWERED, status=HTTPStatus.OK.value)
    job_id = document.get("id")
    return Succeeded(job_id=job_id if isinstance(job_id, str) else None)


def may_send_again(failed: Failed, *, idempotent: bool) -> bool:
    """Whether a retry cannot run the job twice, and may succeed.

    `idempotent`: the request had an idempotency key, and the next one will have the same.
    """
    match failed.reached:
        case Reached.NOTHING_SENT:
            return True
        case Reached.MAYBE_SENT:
            return idempotent
        case Reached.ANSWERED:
            return _may_ask_again(failed, idempotent=idempotent)


def _may_ask_again(failed: Failed, *, idempotent: bool) -> bool:
    status = failed.status or 0
    if failed.retry_safe:
        # Repeating an invalid request is safe, but pointless.
        wrong_request = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        return not wrong_request or status in {
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.TOO_MANY_REQUESTS,
        }
    if not idempotent:
        return False
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.CONFLICT}:
        return True
    return status in _TEMPORARY and not failed.is_problem


def seconds_to_wait(retry_after: str | None, *, now: datetime | None = None) -> float:
    """The seconds that a `Retry-After` header (RFC 9110, 10.2.3) asks for; 0 for none or a malformed one."""
    if retry_after is None:
        return 0.0
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    # The only use of the wall clock: the header contains a date.
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def _object(body: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _excerpt(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "…"
