"""Audit entries, on their way to the database."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any, cast

from proxy import log
from proxy.store.deeds import Deed
from proxy.store.postgresql.audit import AuditTable
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
