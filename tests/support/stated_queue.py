"""A queue service that a test controls: its deliveries are given, and calls are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.sqs.message import Message, Outgoing
from shared.errors import QueueError

__all__ = ["StatedQueue", "a_message"]


def a_message(
    number: int = 1, body: str = "{}", attributes: Mapping[str, str] | None = None, **members: Any
) -> Message:
    """Return a delivered message."""
    usual: dict[str, Any] = {"id": f"message-{number}", "handle": f"handle-{number}", "receives": 1, "sent_at": 0.0}
    texts = {name: {"DataType": "String", "StringValue": text} for name, text in (attributes or {}).items()}
    return Message(**(usual | {"body": body, "attributes": texts} | members))


class StatedQueue:
    """A `QueueService`."""

    def __init__(self) -> None:
        #: The attributes of each queue, by its address.
        self.about: dict[str, dict[str, str]] = {}
        #: The results of the next polls, in order; a poll waits until there is one.
        self.deliveries: asyncio.Queue[list[Message] | QueueError] = asyncio.Queue()
        #: How many messages each poll asked for.
        self.asked: list[int] = []
        self.sent: dict[str, list[Outgoing]] = {}
        self.deleted: list[str] = []
        self.hidden: list[tuple[str, int]] = []
        #: Raised by the next calls other than polls, in order.
        self.errors: list[QueueError] = []
        #: The number of calls other than polls.
        self.calls = 0

    async def attributes(self, url: str) -> Mapping[str, str]:
        """Return the stated attributes."""
        self._fail()
        return self.about[url]

    async def url_of(self, arn: str) -> str:
        """Return an address that ends with the queue's name."""
        self._fail()
        return "http://queues/1/" + arn.rpartition(":")[2]

    async def receive(self, url: str, *, count: int, wait_s: int, visibility_s: int) -> list[Message]:
        """Return the next delivery."""
        self.asked.append(count)
        found = await self.deliveries.get()
        if isinstance(found, QueueError):
            raise found
        return found

    async def send(self, url: str, messages: Sequence[Outgoing], *, fifo: bool) -> list[QueueError | None]:
        """Note it."""
        self._fail()
        self.sent.setdefault(url, []).extend(messages)
        return [None] * len(messages)

    async def delete(self, url: str, handles: Sequence[str]) -> list[QueueError | None]:
        """Note it."""
        self._fail()
        self.deleted.extend(handles)
        return [None] * len(handles)

    async def hide(self, url: str, pauses: Sequence[tuple[str, int]]) -> list[QueueError | None]:
        """Note it."""
        self._fail()
        self.hidden.extend(pauses)
        return [None] * len(pauses)

    def _fail(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
