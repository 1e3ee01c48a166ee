"""Callbacks: one of two lists ends a job, and everything else is progress."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Code, StrictJSONError
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
    """What is in neither list is never an end."""
    assert verdict(RULES, body).kind is kind


def test_the_state_is_told() -> None:
    """Progress is shown by it."""
    assert verdict(RULES, b'{"state": "half done"}').state == "half done"


@given(st.binary(max_size=60) | st.text(max_size=20).map(lambda state: json.dumps({"state": state}).encode()))
def test_every_callback_says_something(body: bytes) -> None:
    """Nothing raises, and no unknown state ends a job."""
    found = verdict(RULES, body)
    assert (found.kind is Kind.PROGRESS) is (found.state not in {*RULES.succeeded, *RULES.failed})


def test_a_profile_may_know_json_only() -> None:
    """Then anything else is no callback at all."""
    with pytest.raises(StrictJSONError):
        verdict(Callback(json_only=True, state="body.state", succeeded=()), b"<html>")


def test_a_final_callback_stands_for_an_outcome() -> None:
    """Its body is the result, or comes with the failure."""
    assert outcome_of(b"{}", failed=False) == Succeeded(body=b"{}")
    failed = outcome_of(b"{}", failed=True)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.result) == (Code.JOB_FAILED, b"{}")
