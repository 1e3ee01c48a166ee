"""The queue entrance at start and shutdown: permanent errors end the start, temporary ones are retried."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.sqs.consumer import POLL_S
from proxy.sqs.queues import Queues, look_up
from proxy.sqs.service import connect
from shared.database_url import is_database
from shared.errors import QueueError, SettingsError

if TYPE_CHECKING:
    from proxy.sqs.consumer import Consumer
    from proxy.sqs.service import QueueService
    from shared.settings import Settings

__all__ = ["QueueEntrance"]

#: How long a start waits for the service: clients over HTTP wait as well.
_START_S: Final = 3.0


class QueueEntrance:
    """The connection to the queue service, and what was found there."""

    #: How many seconds one poll of the queue may take.
    poll_s: Final = POLL_S

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._queues: Queues | None = None

    async def open(self) -> QueueService:
        """Return the service.

        Raises:
            SettingsError: a queue does not exist, or may not be used, or there are no credentials.
        """
        try:
            service = await self._stack.enter_async_context(connect(self._settings.sqs_queue_url))
        except QueueError as exc:
            raise SettingsError(str(exc)) from exc
        try:
            async with asyncio.timeout(_START_S):
                self._queues = await look_up(service, self._settings)
        except TimeoutError:
            _warn(f"the service has not answered within {_START_S:.10g} s")
        except QueueError as exc:
            if exc.refused:
                await self.close()
                raise SettingsError(str(exc)) from exc
            _warn(str(exc))
        return service

    def start(self, consumer: Consumer | None) -> None:
        """Take messages from now on."""
        if consumer is None:
            return
        consumer.start(self._queues)
        # Whether other instances read the queue cannot be seen from here; whether they may, can.
        log.event(
            "info",
            "jobs come from the queue",
            queue=self._settings.sqs_queue_url,
            replies=self._settings.sqs_reply_queue_url or None,
            instances="any number" if is_database(self._settings.journal) else "one only: its journal is not shared",
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()


def _warn(reason: str) -> None:
    log.event("warning", "the queue cannot be reached; jobs come from it as soon as it can", reason=reason)
