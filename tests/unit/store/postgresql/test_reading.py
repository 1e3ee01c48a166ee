"""Questions about many jobs, without a database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from proxy.store.conditions import Question
from proxy.store.postgresql import reading
from proxy.store.postgresql.reading import Searches
from proxy.store.postgresql.session import Session
from shared.errors import StoreUnavailableError
from tests.support.waiting import eventually


class _Sessions:
    """Makes connections to a database that answers when the test says so."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.open = self.most = 0

    def __call__(self) -> Session:
        self.open += 1
        self.most = max(self.most, self.open)
        return cast("Session", self)

    async def run(self, *_: object) -> Sequence[tuple[Any, ...]]:
        """Answer as each statement expects."""
        await self.answers.wait()
        return [(time.time(),)]

    def close(self) -> None:
        """Note it."""
        self.open -= 1


def _question() -> Question[int]:
    rows = yield "SELECT 1", []
    return len(rows)


async def test_many_questions_at_once_have_few_connections() -> None:
    """Anybody who reaches the admin address can ask, and the server has a limited number for all its clients."""
    sessions = _Sessions()
    searches = Searches(sessions(), sessions)
    asked = [asyncio.create_task(searches.ask(_question())) for _ in range(20)]
    await eventually(lambda: sessions.open > 1)

    sessions.answers.set()

    assert await asyncio.gather(*asked) == [1] * 20
    assert (sessions.open, sessions.most) == (1, 3)


async def test_who_has_no_turn_for_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a journal whose disk does not answer. The others go on."""
    monkeypatch.setattr(reading, "_TURN_S", 0.01)
    sessions = _Sessions()
    searches = Searches(sessions(), sessions)
    asked = [asyncio.create_task(searches.ask(_question())) for _ in range(2)]
    await eventually(lambda: sessions.open == 3)

    with pytest.raises(StoreUnavailableError):
        await searches.ask(_question())

    sessions.answers.set()
    assert await asyncio.gather(*asked) == [1, 1]
    assert await searches.ask(_question()) == 1
