"""The queue entrance at the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from proxy.run import queue_entrance
from proxy.run.queue_entrance import QueueEntrance
from shared.settings import load
from tests.support.stated_queue import StatedQueue


class _Silent(StatedQueue):
    """A queue service that answers nothing for a minute."""

    async def attributes(self, url: str) -> Mapping[str, str]:
        await asyncio.sleep(60.0)
        return await super().attributes(url)


async def test_a_start_waits_seconds_for_a_queue_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients over HTTP wait as long. Messages are taken as soon as it answers."""
    service, loop = _Silent(), asyncio.get_running_loop()
    service.about["http://queues/1/jobs"] = {}

    @asynccontextmanager
    async def connect(_: str) -> AsyncIterator[StatedQueue]:
        yield service

    monkeypatch.setattr(queue_entrance, "connect", connect)
    began = loop.time()
    entrance = QueueEntrance(load({"SQS_QUEUE_URL": "http://queues/1/jobs", "JOURNAL": "jobs.sqlite3"}))

    assert await entrance.open() is service
    assert loop.time() - began == pytest.approx(3.0)
    await entrance.close()
