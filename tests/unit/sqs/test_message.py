"""Messages as the service delivers them, and as they are sent."""

from __future__ import annotations

import pytest

from proxy.sqs.message import Message, Outgoing, beginning_of_job, text_attributes
from shared.errors import RequestError
from tests.support.stated_queue import a_message

PUBLIC = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"


def test_a_delivery_says_when_the_message_was_sent_and_how_often_it_was_delivered() -> None:
    """The service counts in milliseconds, and in text."""
    key = {"Idempotency-Key": {"DataType": "String", "StringValue": "k"}}
    found = Message.from_api(
        {
            "MessageId": "m",
            "ReceiptHandle": "h",
            "Body": "{}",
            "MessageAttributes": key,
            "Attributes": {
                "ApproximateReceiveCount": "3",
                "SentTimestamp": "1795820889135",
                "MessageGroupId": "g",
                "MessageDeduplicationId": "d",
            },
        }
    )
    assert found == Message(
        id="m",
        handle="h",
        body="{}",
        attributes=key,
        receives=3,
        sent_at=1_795_820_889.135,
        group="g",
        deduplication_id="d",
    )
    plain = Message.from_api({"MessageId": "m", "ReceiptHandle": "h"})
    assert plain == Message(id="m", handle="h", body="", attributes={}, receives=1, sent_at=0.0)


def test_a_key_has_up_to_255_characters() -> None:
    """As over HTTP."""
    longest = a_message(attributes={"Idempotency-Key": "x" * 255})
    assert longest.key(PUBLIC) != a_message(attributes={"Idempotency-Key": "x" * 254}).key(PUBLIC)
    with pytest.raises(RequestError):
        a_message(attributes={"Idempotency-Key": "x" * 256}).key(PUBLIC)


def test_a_queue_has_the_same_jobs_under_each_of_its_hosts() -> None:
    """A message that is delivered again after a change of the host must not be run again."""
    private = PUBLIC.replace("sqs.eu-west-1.amazonaws.com", "vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com")
    other = PUBLIC.replace("jobs", "others")
    message = a_message()
    assert message.key(PUBLIC) == message.key(private) != message.key(other)
    assert beginning_of_job(PUBLIC, "m") == beginning_of_job(private, "m") != beginning_of_job(other, "m")


def test_the_size_is_that_of_the_body_and_of_the_attributes_in_bytes() -> None:
    """Names, types and values; whether text or binary."""
    attributes = text_attributes({"a": "\u00fc", "empty": ""}) | {
        "b": {"DataType": "Binary", "BinaryValue": b"\x00" * 5}
    }
    sent = Outgoing(body="\u00fc!", attributes=attributes, group="g", deduplication_id="d")
    assert sent.size_bytes == len(b"\xc3\xbc!") + len(b"aString\xc3\xbc") + len(b"bBinary") + 5
