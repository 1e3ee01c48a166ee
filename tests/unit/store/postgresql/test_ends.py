"""Background tasks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from proxy.store.postgresql import ends
from proxy.store.postgresql.health import Health
from proxy.store.postgresql.session import Session
from proxy.store.postgresql.statements import BEAT, ENDED, EXPIRE, LEAVE, LOST, OVERDUE
from proxy.store.postgresql.store import PostgreSQLStore
from tests.support.waiting import eventually


async def test_a_bug_ends_no_background_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they do raises an exception that nobody has thought of; each goes on after a pause."""
    tries: Counter[str] = Counter()

    def fail(what: str) -> None:
        tries[what] += 1
        raise ZeroDivisionError

    async def run(_: Session, sql: str, *_values: object) -> list[tuple[Any, ...]]:
        if sql in {LOST, LEAVE} or (sql == BEAT and not tries[BEAT]):
            tries[sql] += 1
            return [(0.0,)]
        fail(sql)
        return []

    async def connect(_: Session) -> None:
        fail("listen")

    monkeypatch.setattr(ends, "_AGAIN_S", 0)
    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr(Session, "connect", connect)
    monkeypatch.setattr(Health, "say", lambda _: fail("look"))
    store = PostgreSQLStore("", place="here", name="a", ttl_s=3600)
    await store.begin()
    waiting = asyncio.create_task(store.ended("0" * 32))
    try:
        await eventually(lambda: all(tries[what] > 3 for what in (BEAT, OVERDUE, EXPIRE, ENDED, "listen", "look")))
    finally:
        waiting.cancel()
        await store.close()
