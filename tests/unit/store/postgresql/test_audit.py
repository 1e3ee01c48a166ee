"""Audit entries, on their way to the database."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any, cast
from unittest.mock import Mock

import pytest

from proxy import log
from proxy.store.deeds import Deed
from proxy.store.postgresql.audit import AuditTable
from proxy.store.postgresql.session import GoneError
from tests.support.waiting import eventually


class _Session:
    """A session of a database that does not answer for a while."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.written: list[str] = []

    async def run(self, _sql: str, *values: Any) -> list[Any]:
        """Record the ids of written entries, once there is an answer."""
        await self.answers.wait()
        self.written += values[0] if isinstance(values[0], list) else []
        return []

    def close(self) -> None:
        """Do nothing."""


async def test_what_there_was_no_room_for_is_told_once_something_is_written() -> None:
    """Repeated failed log-ins take limited room, and do not displace actions."""
    output = io.StringIO()
    writer = log.configure("json", "info", output)
    session = _Session()
    audit = AuditTable(cast("Any", session), cast("Any", None))
    for _ in range(2_005):
        audit.enter(Deed(at=1.0, what="failed log-in"))
    done = Deed(at=2.0, what="stop")
    audit.enter(done)

    session.answers.set()
    await eventually(lambda: len(session.written) == 2_001)
    await audit.close()
    writer.close()

    assert session.written[-1] == done.id
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [(line["event"], line["entries"]) for line in lines] == [
        ("the audit list lacks entries, which only the log has", 5)
    ]


class _Full(_Session):
    """A session of a database that can be read, but takes no entries."""

    async def run(self, sql: str, *values: Any) -> list[Any]:
        """Return the one entry that there is."""
        if "INSERT" in sql:
            raise GoneError("no space left on device")
        before, _limit = values
        return [(7, "its id", 1.0, "log-in", *[""] * 7)] if before > 7 else []


async def test_what_cannot_be_written_yet_is_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it will probably be."""
    monkeypatch.setattr("proxy.store.postgresql.audit._FLUSH_S", 0.01)
    audit = AuditTable(cast("Any", _Full()), Mock())
    for what in ("pause", "resume"):
        audit.enter(Deed(at=2.0, what=what))

    found = await audit.newest(10, None)
    assert [(deed.n, deed.what) for deed in found] == [(9, "resume"), (8, "pause"), (7, "log-in")]
    assert [deed.what for deed in await audit.newest(1, None)] == ["resume"]
    assert [deed.what for deed in await audit.newest(10, 8)] == ["log-in"]
    await audit.close()


async def test_a_query_leaves_nothing_behind_while_entries_cannot_be_written() -> None:
    """A dashboard that shows the list asks again and again."""
    session = _Session()
    audit = AuditTable(cast("Any", session), cast("Any", None))
    audit.enter(Deed(at=1.0, what="stop"))
    before = asyncio.all_tasks()

    await audit.flush(0.01)

    assert asyncio.all_tasks() == before
    session.answers.set()
    await audit.close()
