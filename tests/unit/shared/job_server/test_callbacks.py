"""Callbacks: one of two lists ends a job, and everything else is progress."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import strict_json
from shared.errors import Code, StrictJSONError
from shared.job_server import loader
from shared.job_server.callbacks import Callbacks, Received
from shared.job_server.profile import Callback
from shared.job_server.verdict import Kind, Verdict, outcome_of
from shared.outcome import Failed, Succeeded

RULES = Callback(state="body.state", succeeded=("completed", "true", "0"), failed=("failed", "error", "2"))


def verdict(callback: Callback, body: bytes) -> Verdict:
    """Read `body`."""
    return Callbacks(callback).read(Received(body=body))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"state": "completed"}', Kind.SUCCEEDED),
        (b'{"state": true}', Kind.SUCCEEDED),
        (b'{"state": 0}', Kind.SUCCEEDED),
        (b'{"state": "failed"}', Kind.FAILED),
        (b'{"state": "error", "proof": 1}', Kind.FAILED),
        (b'{"state": 2}', Kind.FAILED),
        (b'{"state": "half done"}', Kind.PROGRESS),
        (b'{"state": null}', Kind.PROGRESS),
        (b'{"state": ["completed"]}', Kind.PROGRESS),
        (b"{}", Kind.PROGRESS),
        (b"[]", Kind.PROGRESS),
        (b"completed", Kind.PROGRESS),
        (b"", Kind.PROGRESS),
    ],
)
def test_a_state_ends_the_job_or_does_not(body: bytes, kind: Kind) -> None:
    """A state in neither list is never an end."""
    assert verdict(RULES, body).kind is kind


def test_the_state_is_told() -> None:
    """It is shown as progress."""
    assert verdict(RULES, b'{"state": "half done"}').state == "half done"


@given(st.binary(max_size=60) | st.text(max_size=20).map(lambda state: json.dumps({"state": state}).encode()))
def test_every_callback_says_something(body: bytes) -> None:
    """Nothing raises, and no unknown state ends a job."""
    found = verdict(RULES, body)
    assert (found.kind is Kind.PROGRESS) is (found.state not in {*RULES.succeeded, *RULES.failed})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"state": "done", "output": [NaN]}', "NaN is not JSON"),
        (b'\xef\xbb\xbf{"state": "done"}', "it begins with a byte order mark"),
        (b"", "it is empty"),
        (b'{"state": "running"}', ""),
        (b"null", ""),
    ],
)
def test_a_callback_that_cannot_be_read_says_why(body: bytes, why: str) -> None:
    """It is progress, as its state may be elsewhere; but a profile whose state is in the body waits for another one."""
    by_body = Callbacks(Callback(state="body.state", succeeded=("done",)))
    error = by_body.read(Received(body=body)).error
    assert error == (f"the last callback could not be read: {why}" if why else "")
    assert Callbacks(Callback(state="route", succeeded=("done",))).read(Received(body=body)).error == ""
    assert by_body.read(Received(method="GET", body=b"")).error == ""


def test_an_end_whose_body_cannot_be_read_has_not_that_as_its_reason() -> None:
    """Its state is in a header, or else in the body."""
    by_header = Callbacks(Callback(state="headers.state || body.state", failed=("failed",), error="body.why"))
    found = by_header.read(Received(body=b"<html>", headers=[(b"state", b"failed")]))
    assert (found.kind, found.error) == (Kind.FAILED, "")


def test_a_profile_may_know_json_only() -> None:
    """Then anything else is not a callback."""
    with pytest.raises(StrictJSONError):
        verdict(Callback(json_only=True, state="body.state", succeeded=()), b"<html>")


def test_a_final_callback_stands_for_an_outcome() -> None:
    """Its body is the result, or is part of the failure."""
    assert outcome_of(b"{}", failed=False) == Succeeded(body=b"{}")
    failed = outcome_of(b"{}", failed=True)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.result) == (Code.JOB_FAILED, b"{}")


def received(body: bytes = b"", route: str = "", query: str = "", **headers: str) -> Received:
    """A callback with these headers, with underscores for hyphens."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Received(body=body, route=route, query=query, headers=pairs)


def test_the_state_can_be_anywhere() -> None:
    """In the route, the query, a header, the method, or a form's field."""
    for state, call in {
        "route": received(route="done"),
        "query.status": received(query="id=1&status=done&status=other"),
        'headers."x-status"': received(x_status="done"),
        "body.status": received(b"status=done&a=1", content_type="application/x-www-form-urlencoded"),
        "body.job.status": received(
            b'--b\r\nContent-Disposition: form-data; name="job"\r\n\r\n{"status": "done"}\r\n--b--\r\n',
            content_type="multipart/form-data; boundary=b",
        ),
        "method == 'POST' && 'done'": received(),
    }.items():
        assert Callbacks(Callback(state=state, succeeded=("done",))).read(call).kind is Kind.SUCCEEDED, state


def test_json_counts_as_json_even_if_it_is_called_a_form() -> None:
    """As `curl -d` calls it; with a profile that reads some members, and with one that may read any."""
    for state in ("body.state", "body.state || length(body)"):
        rules = Callbacks(Callback(state=state, succeeded=("done",)))
        for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain"):
            assert rules.read(received(b' {"state": "done"}', content_type=content_type)).kind is Kind.SUCCEEDED


def test_a_failure_is_told_as_json() -> None:
    """It becomes a part of a problem document: a form, or any other text, becomes a string."""
    rules = Callbacks(Callback(state="body.s || query.s", succeeded=("yes",), failed=("no",)))
    form = b's=no&e=boom&k="x'
    for content_type in ("application/x-www-form-urlencoded; charset=utf-8", "text/plain"):
        found = rules.read(received(form, query="s=no", content_type=content_type))
        assert (found.kind, found.result) == (Kind.FAILED, json.dumps(form.decode()).encode())
    assert rules.read(received(b'{"s": "no"}')).result is None


def test_the_result_can_be_a_part_in_its_exact_text() -> None:
    """With a plain path; the result of an expression is serialised again; a missing one is null."""
    body = b'{"state": "done", "data": {"a": 1.50, "b": 1e400, "c": "\\u00e9"}}'
    for result, expected in {
        "": None,
        "body.data": b'{"a": 1.50, "b": 1e400, "c": "\\u00e9"}',
        "body.data.a": b"1.50",
        "body.none": b"null",
        "[body.data.a]": b"[1.5]",
        "[body.data.b]": b"null",
        'headers."x-a"': b'"1"',
    }.items():
        call = received(body, x_a="1")
        rules = Callback(state="body.state", succeeded=("done",), result=result)
        assert Callbacks(rules).read(call).result == expected, result


def test_the_reason_of_a_failure_is_told() -> None:
    """As text, truncated if it is long; a success has none, whatever the body has there."""
    rules = Callback(state="body.state", succeeded=("done",), failed=("broken",), error="body.error")
    for error, expected in {
        '"so"': "so",
        "null": "",
        '{"a": 1}': '{"a": 1}',
        f'"{"x" * 501}"': "x" * 500 + "…",
    }.items():
        assert verdict(rules, b'{"state": "broken", "error": %b}' % error.encode()).error == expected
    assert verdict(rules, b'{"state": "done", "error": "old"}').error == ""


def test_a_callback_can_be_a_notification_only() -> None:
    """Then a final state only says that there is something to ask for; without a state, every callback does."""
    rules = Callback(
        state="body.state", succeeded=("done",), failed=("broken",), notification_only=True, outputs={"id": "body.id"}
    )
    assert verdict(rules, b'{"state": "done", "id": 3}') == Verdict(
        kind=Kind.NOTIFICATION, state="done", outputs={"id": "3"}
    )
    assert verdict(rules, b'{"state": "broken"}').kind is Kind.NOTIFICATION
    assert verdict(rules, b'{"state": "half"}').kind is Kind.PROGRESS
    assert verdict(Callback(notification_only=True), b"").kind is Kind.NOTIFICATION


def test_a_callback_at_a_fixed_url_says_whose_it_is() -> None:
    """Or it names nothing."""
    rules = Callbacks(Callback(state="body.s", correlate="body.ids[0]", path="/callback/x"))
    assert rules.correlation(received(b'{"ids": [7]}')) == "7"
    assert rules.correlation(received(b"[]")) == ""


@given(
    st.binary(max_size=80),
    st.sampled_from(
        [
            "",
            "application/json",
            "multipart/form-data; boundary=b",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
            "text/plain",
        ]
    ),
)
def test_no_body_of_any_type_raises(body: bytes, content_type: str) -> None:
    """A body that is not of its type is null for an expression."""
    rules = Callbacks(Callback(state="body.a.b || query.a", succeeded=("done",)))
    assert rules.read(received(body, content_type=content_type, query="%")).kind in Kind


@pytest.mark.parametrize("result", ["body.data", "body.data.rows"])
def test_no_objects_are_made_of_a_result(result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte would block the event loop for a third of a second."""
    rules = Callbacks(Callback(state="body.state", succeeded=("done",), result=result))
    loads = strict_json.loads
    monkeypatch.setattr(strict_json, "loads", lambda data: loads(data[:65_536]))  # invalid JSON if it is larger
    monkeypatch.setattr("shared.job_server.verdict.text_at", lambda *_: None)  # parses as well
    rows = b"[" + b'{"a": 1.50},' * 10_000 + b"{}]"
    found = rules.read(received(b'{"data": {"rows":' + rows + b'}, "state": "done"}'))
    assert found.kind is Kind.SUCCEEDED
    assert found.result == (rows if result == "body.data.rows" else b'{"rows":' + rows + b"}")


def test_a_result_in_a_form_is_a_part_of_json_too() -> None:
    """A field that holds JSON is an object."""
    rules = Callbacks(Callback(state="body.data.state", succeeded=("done",), result="body.data.rows"))
    body = urlencode({"data": '{"state": "done", "rows": [1, 2]}'}).encode()
    assert rules.read(received(body, content_type="application/x-www-form-urlencoded")).result == b"[1, 2]"


@pytest.mark.parametrize("name", loader.shipped())
def test_no_shipped_profile_makes_objects_of_what_it_does_not_ask_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte would block the event loop for a tenth of a second; the findings are the same."""
    profile = loader.load(name)
    read, loads = Callbacks(profile.callback), strict_json.loads
    bodies = [sample.body for sample in profile.sample if sample.kind == "callback" and sample.body.startswith("{")]
    for body in bodies or ['{"state": "completed", "status": "done"}']:
        small = received(body.encode())
        padded = body[:1] + '"padding of the test": [' + "[1]," * 50_000 + "1], " + body[1:]
        expected = read.read(small)
        with monkeypatch.context() as patch:
            patch.setattr(strict_json, "loads", lambda data: loads(data[:65_536]))  # invalid JSON if it is larger
            found = read.read(received(padded.encode()))
        assert (found.kind, found.state, found.error, found.outputs) == (
            expected.kind,
            expected.state,
            expected.error,
            expected.outputs,
        )
