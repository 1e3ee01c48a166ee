"""A database that is briefly unavailable: instances wait for it, and clients notice nothing.

How long they wait is tested separately (`tests/integration/store/test_database_away.py`). Here they wait longer than a
busy machine needs to start a database.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from cluster.postgresql import PostgreSQL
from tests.chaos.support.cluster import clustered
from tests.support.http import Answer, fetch, new_ref

pytestmark = pytest.mark.xdist_group("cluster")

#: Twice the time limit for a start of the database (cluster/postgresql.py).
_PATIENCE_S: Final = 60.0
_TIMEOUT_S: Final = 90.0


async def test_nobody_notices_a_database_that_is_away_for_a_moment(own_postgresql: PostgreSQL, tmp_path: Path) -> None:
    """It is killed and started again while jobs come in and go out; each gets its result at the first try."""
    connector = TCPConnector(force_close=True, limit=0)
    own_postgresql.sql("CREATE DATABASE patience")
    async with (
        clustered(
            own_postgresql,
            own_postgresql.url("patience"),
            tmp_path,
            count=2,
            lease_s=2 * _PATIENCE_S,
            JOB_TIMEOUT=f"{_TIMEOUT_S:g}",
            PATIENCE_S=f"{_PATIENCE_S:g}",
            WORKER_SPARES="2",
        ) as cluster,
        ClientSession(connector=connector, timeout=ClientTimeout(total=2 * _TIMEOUT_S)) as session,
    ):

        def post(**job: Any) -> asyncio.Task[Answer]:
            ref = new_ref()
            sent = {"account": ref, "ref": ref, **job}
            return asyncio.create_task(fetch(session, "POST", cluster.queue_job, json=sent))

        running = [post(duration=0.5) for _ in range(6)]
        await asyncio.to_thread(own_postgresql.kill)
        coming = [post() for _ in range(6)]
        await asyncio.to_thread(own_postgresql.start)
        answers = await asyncio.gather(*running, *coming)
    assert [answer.status for answer in answers] == [200] * 12, answers
