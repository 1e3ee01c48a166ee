"""What an answer says about its job, and when a retry is safe."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobclient.answers import Failed, Reached, Succeeded, classify, may_send_again, seconds_to_wait


def problem(code: str, *, status: int, retry_safe: bool) -> Failed:
    """The failure that a problem document of the proxy is parsed as."""
    body = {"code": code, "detail": "Words.", "status": status, "retry_safe": retry_safe}
    answer = classify(status=status, body=json.dumps(body).encode())
    assert isinstance(answer, Failed)
    return answer


def test_a_completed_job_succeeds_with_its_id() -> None:
    """200 with the state completed is a success, whatever else the body has."""
    body = b'{"id": "4a40f6c1bf585ca9", "state": "completed", "proof": "E850"}'

    assert classify(status=200, body=body) == Succeeded(job_id="4a40f6c1bf585ca9")


def test_a_completed_job_without_an_id_has_none() -> None:
    """A missing or invalid id is not replaced."""
    assert classify(status=200, body=b'{"state": "completed", "id": 7}') == Succeeded(job_id=None)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"state": "running", "id": "1"}', "not-completed"),
        (b"{}", "not-completed"),
        (b"[]", "bad-answer"),
        (b"", "bad-answer"),
        (b"<html>", "bad-answer"),
        (b"\xff\xfe", "bad-answer"),
        (b"[" * 100_000, "bad-answer"),
    ],
)
def test_an_ok_that_holds_no_completed_job_is_a_failure(body: bytes, code: str) -> None:
    """200 alone is not success."""
    answer = classify(status=200, body=body)

    assert isinstance(answer, Failed)
    assert (answer.code, answer.status) == (code, 200)


def test_a_completed_job_in_another_status_is_a_failure() -> None:
    """The contract is 200; the same body with 202 or 500 does not count."""
    for status in (202, 500):
        answer = classify(status=status, body=b'{"state": "completed", "id": "1"}')
        assert isinstance(answer, Failed)
        assert answer.code == f"status-{status}"


def test_a_problem_gives_its_code_detail_and_safety() -> None:
    """The proxy's details of a failure are kept."""
    body = b'{"code": "overloaded", "detail": "Full.", "status": 503, "retry_safe": true}'

    assert classify(status=503, body=body, retry_after="2") == Failed(
        code="overloaded",
        detail="Full.",
        reached=Reached.ANSWERED,
        status=503,
        is_problem=True,
        retry_safe=True,
        retry_after_s=2.0,
    )


def test_only_a_plain_true_makes_an_answer_safe() -> None:
    """A string, a number or a missing value does not allow a retry."""
    for value in ("true", "1", 1, None):
        body = json.dumps({"code": "worker-died", "retry_safe": value}).encode()
        answer = classify(status=500, body=body)
        assert isinstance(answer, Failed)
        assert not answer.retry_safe


@settings(deadline=None)  # the machine may be busy
@given(status=st.integers(100, 599), body=st.binary(max_size=200), header=st.none() | st.text(max_size=30))
def test_no_answer_breaks_the_client(status: int, body: bytes, header: str | None) -> None:
    """Any answer is either a success or a failure with a code."""
    match classify(status=status, body=body, retry_after=header):
        case Succeeded():
            assert status == 200
        case Failed(code=code, retry_after_s=retry_after_s):
            assert code
            assert retry_after_s >= 0


def test_a_connection_that_was_not_made_is_tried_again() -> None:
    """Nothing was sent, so nothing can run twice."""
    failed = Failed(code="connection-failed", detail="", reached=Reached.NOTHING_SENT)

    assert may_send_again(failed, idempotent=False)
    assert may_send_again(failed, idempotent=True)


def test_a_broken_connection_is_tried_again_only_under_a_key() -> None:
    """The job may be running already."""
    failed = Failed(code="connection-broken", detail="", reached=Reached.MAYBE_SENT)

    assert not may_send_again(failed, idempotent=False)
    assert may_send_again(failed, idempotent=True)


@pytest.mark.parametrize(
    ("failed", "without_key", "with_key"),
    [
        (problem("worker-died", status=500, retry_safe=True), True, True),
        (problem("worker-died", status=500, retry_safe=False), False, False),
        (problem("interrupted", status=500, retry_safe=True), True, True),
        (problem("interrupted", status=500, retry_safe=False), False, False),
        (problem("job-failed", status=502, retry_safe=False), False, False),
        (problem("deadline-exceeded", status=504, retry_safe=False), False, False),
        (problem("overloaded", status=503, retry_safe=True), True, True),
        (problem("shutting-down", status=503, retry_safe=False), False, True),
        (problem("in-progress", status=409, retry_safe=False), False, True),
        (problem("invalid-request", status=400, retry_safe=True), False, False),
        (problem("unauthorized", status=401, retry_safe=True), False, False),
        (problem("idempotency-key-reused", status=422, retry_safe=True), False, False),
        (problem("request-timeout", status=408, retry_safe=True), True, True),
    ],
    ids=lambda value: f"{value.status}-{value.code}-{value.retry_safe}" if isinstance(value, Failed) else "",
)
def test_a_problem_is_tried_again_where_that_is_safe_and_has_a_chance(
    failed: Failed, without_key: bool, with_key: bool
) -> None:
    """`retry_safe` decides, but a wrong request stays wrong; with a key, temporary errors are retried, too."""
    assert may_send_again(failed, idempotent=False) is without_key
    assert may_send_again(failed, idempotent=True) is with_key


@pytest.mark.parametrize(
    ("status", "with_key"),
    [
        (429, True),
        (502, True),
        (503, True),
        (504, True),
        (400, False),
        (404, False),
        (500, False),
        (200, False),
    ],
)
def test_an_answer_without_a_code_is_tried_again_only_under_a_key(status: int, with_key: bool) -> None:
    """A gateway in front of the proxy cannot know whether the job ran."""
    failed = classify(status=status, body=b"<html>Bad gateway</html>")

    assert isinstance(failed, Failed)
    assert not may_send_again(failed, idempotent=False)
    assert may_send_again(failed, idempotent=True) is with_key


def test_a_gateways_own_problem_is_tried_again_only_under_a_key() -> None:
    """The gateways of deploy/ answer in problem documents, but know no more about a job than any gateway."""
    body = b'{"type": "about:blank", "code": "gateway-timeout", "submitted": "unknown", "retry_safe": false}'
    failed = classify(status=504, body=body)

    assert isinstance(failed, Failed)
    assert failed.code == "gateway-timeout"
    assert not may_send_again(failed, idempotent=False)
    assert may_send_again(failed, idempotent=True)


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        (None, 0.0),
        ("7", 7.0),
        (" 1 ", 1.0),
        ("-1", 0.0),
        ("soon", 0.0),
        ("²", 0.0),
        ("Mon, 29 Jun 2015 15:29:05 GMT", 10.0),
        ("Mon, 29 Jun 2015 15:29:05 -0000", 10.0),
        ("Mon, 29 Jun 2015 15:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected_s: float) -> None:
    """Both forms of RFC 9110 count; anything else and past dates mean now."""
    now = datetime(2015, 6, 29, 15, 28, 55, tzinfo=UTC)

    assert seconds_to_wait(header, now=now) == expected_s
