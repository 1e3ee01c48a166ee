"""Status and result calls: an invalid answer is no answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job_server.polls import Results, Statuses
from shared.job_server.profile import Result, Status
from shared.job_server.verdict import Kind, Verdict
from shared.messages import Told, encode

STATUS = Status(url="/", state="body.status", succeeded=("done",), failed=("failed",), error="body.error")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"status": "done"}', Kind.SUCCEEDED),
        (200, b'{"status": "failed", "error": "no"}', Kind.FAILED),
        (200, b'{"status": "half"}', Kind.PROGRESS),
        (200, b"<html>", Kind.PROGRESS),
        (409, b'{"status": "failed"}', Kind.PROGRESS),
        (500, b'{"status": "done"}', Kind.PROGRESS),
        (302, b'{"status": "done"}', Kind.PROGRESS),
    ],
)
def test_only_a_2xx_says_how_a_job_is_doing(status: int, body: bytes, kind: Kind) -> None:
    """Cog's 409 says "failed" of another job than the requested one."""
    assert Statuses(STATUS).read(status, {}, body).kind is kind


def test_of_a_long_state_the_beginning_is_told() -> None:
    """As much as an answer has would not fit into the message from the worker, which would be killed for that."""
    body = json.dumps({"status": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 500_000}, ensure_ascii=False).encode()
    verdict = Statuses(STATUS).read(200, {}, body)
    told = Told(job_id="j", call="status", kind=verdict.kind, state=verdict.state)
    assert verdict.state
    assert len(encode(told)) < 1_000


def test_a_failure_is_told_as_json() -> None:
    """It becomes a part of a problem document; a form becomes a string."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert Statuses(STATUS).read(200, headers, b"status=failed").result == b'"status=failed"'
    assert Statuses(STATUS).read(200, headers, b'{"status": "failed"}').result is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.SUCCEEDED),
        (204, Kind.SUCCEEDED),
        (202, Kind.PROGRESS),
        (404, Kind.PROGRESS),
        (409, Kind.PROGRESS),
        (425, Kind.PROGRESS),
        (429, Kind.PROGRESS),
        (500, Kind.PROGRESS),
        (503, Kind.PROGRESS),
        (400, Kind.FAILED),
        (410, Kind.FAILED),
        (408, Kind.PROGRESS),
        (302, Kind.PROGRESS),
        (304, Kind.PROGRESS),
    ],
)
def test_a_result_is_there_or_comes_or_never_will(status: int, kind: Kind) -> None:
    """By its status alone."""
    assert Results(Result(url="/")).read(status, {}, b"x").kind is kind


def test_what_cannot_be_read_is_no_result() -> None:
    """If a part of it is the result: a gateway's page once became `null`. What is called a form is one."""
    results = Results(Result(url="/", result="body.a"))
    assert results.read(200, {}, b"<html>").kind is Kind.PROGRESS
    assert results.read(200, {}, b"{}").result == b"null"
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert results.read(200, form, b"a=1").result == b'"1"'
    assert Results(Result(url="/", result="headers.a")).read(200, {"a": "1"}, b"<html>").result == b'"1"'


def test_an_answer_that_says_nothing_has_a_reason() -> None:
    """For whoever waited for it."""
    status, result = Statuses(STATUS).read, Results(Result(url="/", result="body.a")).read
    asked = "asked for the job's status, the job server "
    assert status(404, {}, b"").error == f"{asked}answered 404"
    assert status(200, {}, b'{"status": NaN}').error == f"{asked}gave an unreadable answer: NaN is not JSON"
    assert status(200, {}, b" " * 70_000 + b"a").error == f"{asked}gave an unreadable answer: it is not JSON"
    for without in (b"null", b"{}", b'{"state": "done"}', b'{"status": null}'):
        assert status(200, {}, without).error == f"{asked}gave an answer without a state"
    assert status(200, {}, b'{"status": "half"}').error == ""
    asked = "asked for the job's result, the job server "
    assert result(302, {}, b"").error == f"{asked}answered 302"
    assert result(410, {}, b"").error == f"{asked}answered 410"
    assert result(200, {}, b"").error == f"{asked}gave an unreadable answer: it is empty"
    assert result(200, {}, b"{}").error == ""


def test_a_result_is_the_whole_body_or_a_part() -> None:
    """As for a callback."""
    assert Results(Result(url="/")).read(200, {}, b"\x00") == Verdict(kind=Kind.SUCCEEDED)
    assert Results(Result(url="/", result="body.a")).read(200, {}, b'{"a": 1.0}').result == b"1.0"


@given(st.integers(0, 999), st.binary(max_size=40))
def test_no_answer_raises(status: int, body: bytes) -> None:
    """Whatever comes."""
    assert Statuses(STATUS).read(status, {"content-type": "multipart/form-data"}, body).kind in Kind
    assert Results(Result(url="/", result="body.a")).read(status, {}, body).kind in Kind


def test_a_reason_has_no_callback_token_in_it() -> None:
    """Pygeoapi returns the URL that it could not call, which made its job fail."""
    status = Status(url="/s", state="body.status", failed=("failed",), error="body.message")
    body = b'{"status": "failed", "message": "no connection: /callback/%b/succeeded"}' % (b"a_-B" * 11)
    assert Statuses(status).read(200, {}, body).error == "no connection: /callback/***/succeeded"
