"""Replies: every status and body means one of five things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job_server.profile import Submit
from shared.job_server.submissions import Replies, Reply, ReplyKind
from shared.job_server.verdict import Kind, Verdict

STRICT = Submit(state="body.state", running=("running", "queued"))


def by_status(submit: Submit, status: int, *, retry_after: bool = False) -> str:
    """Read a status."""
    reply = Replies(submit).read_status(status, retry_after=retry_after)
    return "accepted" if reply is None else str(reply.kind)


def by_body(submit: Submit, body: bytes) -> Reply:
    """Read the body of a reply with a good status."""
    return Replies(submit).read(200, {}, body)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "accepted"),
        (299, "accepted"),
        (301, "error"),
        (400, "refused"),
        (404, "refused"),
        (429, "busy"),
        (500, "error"),
        (503, "error"),
        (100, "error"),
        (600, "error"),
    ],
)
def test_by_default_statuses_mean_what_http_says(status: int, expected: str) -> None:
    """If it is not certain, it is an error, and `submitted` is unknown."""
    assert by_status(Submit(), status) == expected


def test_a_503_is_busy_only_where_it_says_when_to_come_again() -> None:
    """Otherwise the job may be running."""
    assert by_status(Submit(), 503, retry_after=True) == "busy"


@pytest.mark.parametrize(
    ("status", "expected"), [(202, "accepted"), (200, "bad"), (409, "busy"), (503, "busy"), (429, "refused")]
)
def test_a_profile_may_name_the_statuses(status: int, expected: str) -> None:
    """Then only those count; another 2xx may or may not have started a job."""
    assert by_status(Submit(accepted=(202,), busy=(409, 503)), status) == expected


def test_a_2xx_can_be_busy() -> None:
    """If the profile says so, whether or not it names those that are accepted."""
    assert by_status(Submit(busy=(204,)), 204) == "busy"
    assert by_status(Submit(accepted=(202,), busy=(204,)), 204) == "busy"
    assert by_status(Submit(accepted=(429,)), 429) == "accepted"


@given(st.binary(max_size=50))
def test_without_states_any_body_will_do(body: bytes) -> None:
    """Even one that is not JSON."""
    assert by_body(Submit(), body) == Reply(kind=ReplyKind.RUNNING)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"<html>", "the job server's reply is not JSON: Expecting value at character 0"),
        (b"[]", "the job server's reply is not a JSON object"),
        (b"{}", "the job server's reply does not say that the job is running"),
        (b'{"state": "completed"}', "the job server's reply does not say that the job is running"),
        (b'{"state": ["running"]}', "the job server's reply does not say that the job is running"),
    ],
)
def test_with_states_anything_else_is_bad(body: bytes, detail: str) -> None:
    """With the error, for a person."""
    assert by_body(STRICT, body) == Reply(kind=ReplyKind.BAD, detail=detail)


@pytest.mark.parametrize("body", [b"", b"<ok/>", b"[]", b"{}"])
def test_where_a_header_has_the_state_the_body_may_be_anything(body: bytes) -> None:
    """As that of a 202 that has only the job's address: it was an invalid reply, though the job server had it."""
    submit = Submit(state="headers.location && 'has it'", running=("has it",), outputs={"id": "headers.location"})
    reply = Replies(submit).read(202, {"Location": "/jobs/5"}, body)
    assert (reply.kind, reply.outputs) == (ReplyKind.RUNNING, {"id": "/jobs/5"})
    without = Replies(submit).read(202, {}, body)
    assert (without.kind, without.detail) == (
        ReplyKind.BAD,
        "the job server's reply does not say that the job is running",
    )


@pytest.mark.parametrize("body", [b'{"state": "running"}', b' {"id": 1, "state": "queued"}\n'])
def test_with_states_one_of_them_runs(body: bytes) -> None:
    """Whatever else it contains."""
    assert by_body(STRICT, body) == Reply(kind=ReplyKind.RUNNING)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"code": -32601}}', ReplyKind.REFUSED),
        (b'{"result": null}', ReplyKind.REFUSED),
        (b'{"result": [1, {"2": 3}]}', ReplyKind.RUNNING),
    ],
)
def test_a_2xx_can_be_a_refusal(body: bytes, kind: ReplyKind) -> None:
    """As in JSON-RPC."""
    assert by_body(Submit(rejected="body.error || body.result == `null`"), body).kind is kind


@pytest.mark.parametrize("body", [b"", b"{", b'{"result": nu', b"<html>504</html>"])
def test_what_cannot_be_read_refuses_nothing(body: bytes) -> None:
    """Half a reply, or a gateway's page with status 200: the job may run. A status or a header may still refuse it."""
    assert by_body(Submit(rejected="body.error || body.result == `null`"), body).kind is ReplyKind.BAD
    assert by_body(Submit(rejected="headers.refused || body.error"), body).kind is ReplyKind.RUNNING
    by_header = Replies(Submit(rejected="headers.refused"))
    assert by_header.read(200, {"Refused": "yes"}, body).kind is ReplyKind.REFUSED
    by_status = Replies(Submit(accepted=(200, 409), rejected="status != `200` || body.error"))
    assert by_status.read(409, {}, body).kind is ReplyKind.REFUSED


def test_a_refusal_says_why_and_a_4xx_need_not_be_one() -> None:
    """A job server that runs a job at once may answer 400 for its failure."""
    submit = Submit(
        accepted=(200, 400),
        rejected="status == `400` && !(headers.ran)",
        state="status",
        succeeded=("200",),
        failed=("400",),
        error="body.why",
    )
    read = Replies(submit).read
    assert read(400, {}, b'{"why": "no such thing"}').detail == "the job server answered 400: no such thing"
    ran = read(400, {"Ran": "yes"}, b'{"why": "broken"}').verdict
    assert ran == Verdict(kind=Kind.FAILED, state="400", error="broken")


@pytest.mark.parametrize("error", ["", "body.error.message", "body.none"])
@pytest.mark.parametrize("said", ["no", "no\\n\\u0007"])
def test_a_refusal_in_a_2xx_says_why(error: str, said: str) -> None:
    """Even if the profile does not say where the reason is, as with a refusing status."""
    reply = Replies(Submit(rejected="body.error", error=error)).read(
        200, {}, f'{{"error": {{"message": "{said}"}}}}'.encode()
    )
    assert (reply.detail, reply.reason) == ("the job server's reply says that the job was refused: no", "no")


@given(st.integers(100, 599), st.booleans(), st.binary(max_size=30))
def test_every_reply_says_something(status: int, retry_after: bool, body: bytes) -> None:
    """Nothing raises, and everything but a success has a reason."""
    replies = Replies(STRICT)
    reply = replies.read_status(status, retry_after=retry_after) or replies.read(status, {}, body)
    assert (reply.kind is ReplyKind.RUNNING) is (reply.detail == "")


def test_a_reply_can_name_what_later_calls_need() -> None:
    """In its body and its headers; numbers count by their text, and missing ones are left out."""
    outputs = {"id": "body.id", "place": "headers.location", "none": "body.none", "status": "status"}
    reply = Replies(Submit(outputs=outputs)).read(201, {"Location": "/jobs/1"}, b'{"id": 7}')
    assert reply == Reply(kind=ReplyKind.RUNNING, outputs={"id": "7", "place": "/jobs/1", "status": "201"})


def test_a_reply_can_be_final() -> None:
    """If the profile says how to recognise that."""
    submit = Submit(
        state="body.state",
        succeeded=("done",),
        failed=("broken",),
        running=("running",),
        result="body.data",
        error="body.why",
    )
    assert by_body(submit, b'{"state": "done", "data": 1.0}').verdict == Verdict(
        kind=Kind.SUCCEEDED, state="done", result=b"1.0"
    )
    assert by_body(submit, b'{"state": "broken", "why": "so"}').verdict == Verdict(
        kind=Kind.FAILED, state="broken", error="so"
    )
    assert by_body(submit, b'{"state": "other"}').kind is ReplyKind.BAD


def test_a_reply_can_be_a_form() -> None:
    """As any message can."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    replies = Replies(Submit(outputs={"id": "body.id"}, state="body.state", running=("queued",), failed=("broken",)))
    assert replies.read(200, headers, b"id=7&state=queued").outputs == {"id": "7"}
    assert replies.read(200, headers, b"id=7&state=broken").verdict == Verdict(
        kind=Kind.FAILED, state="broken", result=b'"id=7&state=broken"', outputs={"id": "7"}
    )
    assert replies.read(200, {}, b"id=7&state=queued").detail.startswith("the job server's reply is not JSON: ")


@pytest.mark.parametrize(("characters", "kept"), [(8_000, True), (8_001, False)])
def test_an_output_may_be_a_long_signed_url(characters: int, *, kept: bool) -> None:
    """A longer one would fit into no request."""
    reply = by_body(Submit(outputs={"url": "body.url"}), b'{"url": "%b"}' % (b"x" * characters))
    assert reply.outputs == ({"url": "x" * characters} if kept else {})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": {"message": "no such account"}}', "no such account"),
        (b"no such account\r\n", "no such account"),
        ("kein Konto f\u00fcr M\u00fcller".encode(), "kein Konto f\u00fcr M\u00fcller"),
        ("kein Konto f\u00fcr M\u00fcller".encode("cp1252"), "kein Konto f\u00fcr M\u00fcller"),
        ("kein Konto f\u00fcr M\u00fcller".encode("utf-16"), "kein Konto f\u00fcr M\u00fcller"),
        ("kein Konto f\u00fc".encode()[:-1], "kein Konto f\ufffd"),  # only the beginning was read
        (b"<html><title>502 Bad Gateway</title><p>nginx", "502 Bad Gateway"),
        (b"<html><p>nginx", ""),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ""),
        (b"\xe4 \x81 \xe4", ""),  # no character in any of these encodings
        (b"", ""),
    ],
)
def test_the_reason_of_a_refusing_status_is_what_people_can_read(body: bytes, reason: str) -> None:
    """Whatever the encoding; nothing of what is no text."""
    assert Replies(Submit()).reason(body) == reason
