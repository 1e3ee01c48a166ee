"""Replies and dead letters."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.sqs.message import MEANINGFUL, Outgoing
from proxy.sqs.replies import dead_letter, reply
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed, Succeeded
from tests.support.stated_queue import a_message


def texts(outgoing: Outgoing) -> dict[str, str]:
    """Return the attributes of a message."""
    return {name: it["StringValue"] for name, it in outgoing.attributes.items()}


def reply_with(body: bytes, max_bytes: int = 1_048_576, content_type: str = "") -> Outgoing:
    """Return the reply to a job with this result."""
    outcome = Succeeded(body=body, content_type=content_type)
    return reply(a_message(), "job", outcome, max_bytes=max_bytes, granular=False)


@pytest.mark.parametrize("body", [b'{"a":\t1.10}\r\n', '{"a": "\u00fc\U0001f600"}'.encode(), b"\x7f"])
def test_a_text_is_sent_byte_for_byte(body: bytes) -> None:
    """Whatever its content."""
    sent = reply_with(body)
    assert sent.body.encode() == body
    assert "Content-Transfer-Encoding" not in sent.attributes


@pytest.mark.parametrize(
    "body", [b"\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xfe{}", "\ufffe".encode(), "a\uffff".encode(), b"\x1b[0m"]
)
def test_what_sqs_does_not_take_as_text_is_base64(body: bytes) -> None:
    """And its attribute says so."""
    sent = reply_with(body, content_type="image/png")
    assert texts(sent)["Content-Transfer-Encoding"] == "base64"
    assert texts(sent)["Content-Type"] == "image/png"
    assert base64.b64decode(sent.body) == body


def test_a_result_that_no_message_can_hold_is_named() -> None:
    """Too large, as text or as Base64, or empty: SQS accepts no empty message."""
    overhead = reply_with(b"x").size_bytes - 1
    assert "Location" not in reply_with(b"x" * 1_000, overhead + 1_000).attributes
    for sent in (
        reply_with(b"x" * 1_001, overhead + 1_000),
        reply_with(b"\x00" * 900, overhead + 1_000, content_type="image/png"),
        reply_with(b""),
    ):
        assert texts(sent)["Location"] == "/jobs/job/result"
        assert "Content-Transfer-Encoding" not in sent.attributes
        assert texts(sent)["Content-Type"] == "application/json"
        assert json.loads(sent.body)["result"] == "/jobs/job/result"
        assert sent.size_bytes < 1_000


def test_a_failure_is_its_problem_document() -> None:
    """With the job server's result, if there is one."""
    outcome = Failed(code=Code.JOB_FAILED, detail="it failed", submitted=Submitted.YES, result=b'{"why": 1.10}')
    sent = reply(a_message(), "job", outcome, max_bytes=1_048_576, granular=True)
    document = json.loads(sent.body)
    assert (document["code"], document["status"], document["job_id"]) == ("job-failed", 502, "job")
    assert b'"result": {"why": 1.10}' in sent.body.encode()
    assert texts(sent) == {
        "Job-Id": "job",
        "Message-Id": "message-1",
        "Outcome": "failed",
        "Code": "job-failed",
        "Submitted": "yes",
        "Content-Type": "application/problem+json",
    }


def test_two_messages_of_one_job_are_two_replies() -> None:
    """A FIFO queue drops a message with the same deduplication id."""
    done = Succeeded(body=b"{}")
    first, second = (reply(a_message(n), "job", done, max_bytes=1_000, granular=False) for n in (1, 2))
    assert first.group == second.group == "job"
    assert first.deduplication_id != second.deduplication_id


def test_a_dead_letter_keeps_the_message_and_as_much_beside_it_as_there_is_room_for() -> None:
    """SQS allows ten attributes, and counts their bytes."""
    given = {f"a{number}": "x" for number in range(10)}
    message = a_message(body="no JSON", attributes=given)

    def letter(max_bytes: int) -> Outgoing:
        return dead_letter(message, Code.INVALID_REQUEST, "why\nnot", Submitted.NO, max_bytes=max_bytes)

    whole = letter(1_048_576)
    assert (whole.body, len(whole.attributes)) == ("no JSON", 10)
    assert texts(whole)["Detail"] == "why not"
    assert texts(whole)["a0"] == "x"
    without_others = letter(whole.size_bytes - 1)
    without_detail = letter(without_others.size_bytes - 1)
    assert set(without_others.attributes) == {"Code", "Submitted", "Message-Id", "Detail"}
    assert set(without_detail.attributes) == {"Code", "Submitted", "Message-Id"}
    assert (letter(10).body, letter(10).attributes) == ("no JSON", message.attributes)


def test_a_dead_letter_keeps_what_makes_the_message_this_job() -> None:
    """If it is moved back, it must not lose its key, nor go to another job server. There is room for ten attributes."""
    meaning = {name: name for name in MEANINGFUL}
    assert len(meaning) == 8
    given = {**{f"a{number}": "x" for number in range(10 - len(meaning))}, **meaning}
    message = a_message(body="no JSON", attributes=given)

    def letter(max_bytes: int) -> Outgoing:
        return dead_letter(message, Code.INVALID_REQUEST, "why", Submitted.UNKNOWN, max_bytes=max_bytes)

    whole = letter(1_048_576)
    assert texts(whole) == {**meaning, "Code": "invalid-request", "Submitted": "unknown"}
    assert letter(whole.size_bytes - 1).attributes == message.attributes
    message = a_message(body="no JSON", attributes={name: name for name in meaning if name != "Query"})
    assert texts(letter(1_048_576))["Message-Id"] == message.id
