"""The one table from error to HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.http import problems
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed

ROOT: Final = Path(__file__).resolve().parent.parent.parent.parent

#: The contract, and below the line the additions: code -> status, and status with GRANULAR_ERRORS.
CONTRACT: Final = {
    "invalid-request": (400, 400),
    "unauthorized": (401, 401),
    "not-found": (404, 404),
    "request-timeout": (408, 408),
    "payload-too-large": (413, 413),
    "unsupported-media-type": (415, 415),
    "idempotency-key-reused": (422, 422),
    "too-many-attempts": (429, 429),
    "overloaded": (503, 503),
    "no-worker": (503, 503),
    "journal-unavailable": (503, 503),
    "intake-paused": (503, 503),
    "shutting-down": (503, 503),
    "worker-died": (500, 500),
    "deadline-exceeded": (500, 504),
    "job-server-unavailable": (500, 502),
    "job-rejected": (500, 502),
    "bad-job-server-reply": (500, 502),
    "job-failed": (500, 502),
    "cancelled": (500, 500),
    "interrupted": (500, 500),
    # ---
    "malformed-request": (400, 400),
    "headers-too-large": (431, 431),
    "not-implemented": (501, 501),
    "http-version-not-supported": (505, 505),
    "forbidden": (403, 403),
    "method-not-allowed": (405, 405),
    "internal-error": (500, 500),
}


def document(problem: problems.Problem) -> dict[str, Any]:
    """A problem's body, parsed."""
    parsed: dict[str, Any] = json.loads(problem.body)
    return parsed


def test_the_table_has_every_code_and_no_other() -> None:
    """Each code has a meaning."""
    assert set(problems.TABLE) == set(Code)
    assert {str(code) for code in Code} == set(CONTRACT)


@pytest.mark.parametrize("code", Code)
def test_a_code_has_the_statuses_of_the_contract(code: Code) -> None:
    """With and without GRANULAR_ERRORS; the document repeats its status."""
    plain, granular = CONTRACT[code]
    for is_granular, status in ((False, plain), (True, granular)):
        problem = problems.make(code, "because", granular=is_granular)
        assert problem.status == status
        assert document(problem)["status"] == status


@pytest.mark.parametrize("code", Code)
def test_a_document_is_complete(code: Code) -> None:
    """All promised members are there, and the texts are not empty."""
    assert document(problems.make(code, "because")) == {
        "type": f"/problems/{code}",
        "title": problems.TABLE[code].title,
        "status": CONTRACT[code][0],
        "detail": "because",
        "code": str(code),
        "job_id": None,
        "submitted": "no",
        "retry_safe": True,
    }
    entry = problems.TABLE[code]
    assert entry.title
    assert entry.meaning.endswith(".")
    assert entry.advice.endswith(".")


@pytest.mark.parametrize("submitted", Submitted)
def test_only_a_job_that_was_certainly_not_submitted_is_safe_to_retry(submitted: Submitted) -> None:
    """`retry_safe` is `submitted` as a boolean."""
    failure = Failed(code=Code.WORKER_DIED, detail="it died", submitted=submitted)
    shown = document(problems.of_failure(failure, "abc", granular=False))
    assert shown["submitted"] == str(submitted)
    assert shown["retry_safe"] is (submitted is Submitted.NO)


def test_a_failure_names_its_job_in_document_and_header() -> None:
    """The id is what a client asks about later."""
    problem = problems.of_failure(
        Failed(code=Code.CANCELLED, detail="gone", submitted=Submitted.YES), "abc", granular=False
    )
    assert document(problem)["job_id"] == "abc"
    assert (b"job-id", b"abc") in problem.headers


def test_the_result_of_a_failed_job_stands_in_the_document_as_it_came() -> None:
    """Numbers are not changed by parsing."""
    result = b'{"state": "failed", "cost": 1.10, "big": 1e400}'
    failure = Failed(code=Code.JOB_FAILED, detail="no", submitted=Submitted.YES, result=result)
    problem = problems.of_failure(failure, "abc", granular=False)
    assert b'"result": ' + result in problem.body
    assert json.loads(problem.body)["result"]["state"] == "failed"


@pytest.mark.parametrize("code", Code)
def test_only_a_429_and_a_503_say_when_to_come_again(code: Code) -> None:
    """Those always have a `Retry-After` of at least 1 s; others never."""
    headers = dict(problems.make(code, "because", retry_after_s=7).headers)
    assert headers.get(b"retry-after") == (b"7" if CONTRACT[code][0] in {429, 503} else None)
    if CONTRACT[code][0] in {429, 503}:
        assert dict(problems.make(code, "because").headers)[b"retry-after"] == b"1"


def test_a_401_says_which_scheme_is_wanted() -> None:
    """RFC 9110 requires the header."""
    assert (b"www-authenticate", b"Bearer") in problems.make(Code.UNAUTHORIZED, "no").headers


def test_the_page_of_codes_has_every_code_with_its_statuses() -> None:
    """The table of codes in docs/codes.md is complete and right."""
    rows = {}
    for line in (ROOT / "docs" / "codes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and cells[1].strip("`") in CONTRACT and cells[2].isdigit():
            rows[cells[1].strip("`")] = (int(cells[2]), int(cells[3] or cells[2]))
    assert rows == CONTRACT


@pytest.mark.parametrize(
    ("detail", "asked"),
    [
        ("the job server answered 429 and asks to wait 3 s: full", b"3"),
        ("the job server answered 503 and asks to wait 86400 s", b"86400"),
        ("the job server answered 429: the job server answered 429 and asks to wait 3 s", None),
        ("the job server answered 429", None),
    ],
)
def test_when_a_job_server_wants_to_be_asked_again_is_passed_on(detail: str, asked: bytes | None) -> None:
    """As the header that it sent; a time that is only in its text is not passed on."""
    failure = Failed(code=Code.JOB_REJECTED, detail=detail, submitted=Submitted.NO)
    assert dict(problems.of_failure(failure, "job", granular=False).headers).get(b"retry-after") == asked
