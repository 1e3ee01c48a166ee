"""An entrance without HTTP: jobs come as messages, and their outcomes are recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from proxy.jobs.entrance import Entrance
from proxy.jobs.job import Job
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome
from tests.support.jobs import a_request

__all__ = ["Message", "QueueEntrance"]


@dataclass(frozen=True, slots=True)
class Message:
    """A job in a queue."""

    id: str
    body: bytes = b"{}"
    #: Its idempotency key; empty: the message's id serves as the key.
    key: str = ""


class QueueEntrance:
    """Takes messages, which may be delivered several times; answers each with an outcome, or gives it back."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        #: By the message's id: the outcomes; and why a message can never be a job.
        self.replies: dict[str, Outcome] = {}
        self.dead: dict[str, Code] = {}
        #: How often a message was given back, to be delivered again.
        self.given_back: Counter[str] = Counter()
        #: How many messages joined a job, or got the outcome of a finished one.
        self.joined = 0

    async def take(self, message: Message) -> None:
        """Handle one delivery of a message."""
        request = a_request(message.body, message.key or message.id)
        try:
            found, joined = await self._entrance.submit_or_join(request)
        except RequestError as exc:
            self.dead[message.id] = exc.code
            return
        except (AdmissionError, StoreUnavailableError):
            self.given_back[message.id] += 1
            return
        self.joined += joined
        outcome = await asyncio.shield(found.outcome) if isinstance(found, Job) else found.outcome
        if outcome is None or (isinstance(outcome, Failed) and outcome.submitted is Submitted.NO):
            self.given_back[message.id] += 1
        else:
            self.replies[message.id] = outcome
