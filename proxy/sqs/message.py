"""Messages that are received from or sent to a queue: no decisions, and no SDK."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from proxy.store.record import BEGINNING_CHARACTERS
from shared.errors import Code, RequestError

__all__ = ["MEANINGFUL", "Attribute", "Message", "Outgoing", "beginning_of_job", "text_attributes"]

#: An attribute in the API's form: `DataType`, and `StringValue` or `BinaryValue`.
Attribute = Mapping[str, Any]

_KEY: Final = "Idempotency-Key"
_MAX_KEY_CHARACTERS: Final = 255
#: The attributes without which a message would be another job, or be replied to elsewhere.
MEANINGFUL: Final = frozenset(
    {_KEY, "Profile", "Path", "Query", "Content-Type", "Content-Encoding", "Content-Transfer-Encoding", "ReplyTo"}
)


@dataclass(slots=True, kw_only=True)
class Message:
    """One delivery of a message."""

    #: The same for each delivery.
    id: str
    #: Identifies this delivery.
    handle: str
    #: Empty once its job exists.
    body: str
    attributes: Mapping[str, Attribute]
    #: How often it was delivered, including this time; approximate, like all counts of SQS.
    receives: int
    #: When it was sent, in Unix seconds, by the clock of the service.
    sent_at: float
    #: Only in a FIFO queue; otherwise empty.
    group: str = ""
    deduplication_id: str = ""

    @classmethod
    def from_api(cls, given: Mapping[str, Any]) -> Message:
        """Return a message of ReceiveMessage's answer."""
        system = given.get("Attributes", {})
        return cls(
            id=given["MessageId"],
            handle=given["ReceiptHandle"],
            body=given.get("Body", ""),
            attributes=given.get("MessageAttributes", {}),
            receives=int(system.get("ApproximateReceiveCount", 1)),
            sent_at=int(system.get("SentTimestamp", 0)) / 1000,
            group=system.get("MessageGroupId", ""),
            deduplication_id=system.get("MessageDeduplicationId", ""),
        )

    def text(self, name: str) -> str:
        """Return the attribute `name`; empty if there is none. Raises RequestError if it is not a string."""
        attribute = self.attributes.get(name)
        if attribute is None:
            return ""
        text = attribute.get("StringValue")
        if not isinstance(text, str):
            raise RequestError(Code.INVALID_REQUEST, f"the attribute `{name}` is not a String")
        return text

    def key(self, queue_url: str, *, by_group: bool = False) -> bytes:
        """Return the hash of the key of the message's job.

        The key is the attribute `Idempotency-Key`, or else the deduplication id, or else the message's id. `by_group`:
        the queue deduplicates within each message group, so the same id in another group is another message. Raises
        RequestError.
        """
        own = self.text(_KEY)
        if len(own) > _MAX_KEY_CHARACTERS:
            raise RequestError(
                Code.INVALID_REQUEST,
                f"the attribute `{_KEY}` has more than {_MAX_KEY_CHARACTERS} characters",
                fate_known=True,  # no job can have been started with an invalid key
            )
        if own:
            return _key(queue_url, _KEY, own)
        if self.deduplication_id:
            name = f"{self.group}\0{self.deduplication_id}" if by_group else self.deduplication_id
            return _key(queue_url, "MessageDeduplicationId", name)
        return _key(queue_url, "MessageId", self.id)

    @property
    def has_name(self) -> bool:
        """Whether the key of its job is not just the message's id."""
        return _KEY in self.attributes or bool(self.deduplication_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to send."""

    body: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    #: Only used for a FIFO queue.
    group: str
    deduplication_id: str

    @property
    def size_bytes(self) -> int:
        """The size that the limit applies to: the body, and names, types and values of the attributes."""
        size = len(self.body) if self.body.isascii() else len(self.body.encode())
        for name, attribute in self.attributes.items():
            value = attribute.get("StringValue")
            value_bytes = value.encode() if isinstance(value, str) else attribute.get("BinaryValue", b"")
            size += len(name.encode()) + len(attribute.get("DataType", "")) + len(value_bytes)
        return size


def text_attributes(texts: Mapping[str, str]) -> dict[str, Attribute]:
    """Return attributes of type String, without empty ones, which SQS does not accept."""
    return {name: {"DataType": "String", "StringValue": text} for name, text in texts.items() if text}


def beginning_of_job(queue_url: str, message_id: str) -> str:
    """Return the beginning of the id of a message's job. It cannot be guessed without the message's id."""
    return _key(queue_url, "Job", message_id).hex()[:BEGINNING_CHARACTERS]


def _key(queue_url: str, kind: str, name: str) -> bytes:
    # Only account and name of the queue: it has several host names, and all must lead to the same key.
    queue = urlsplit(queue_url).path
    return hashlib.sha256(f"sqs\0{queue}\0{kind}\0{name}".encode("utf-8", "surrogatepass")).digest()
