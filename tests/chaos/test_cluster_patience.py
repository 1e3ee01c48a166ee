"""A database that cannot be reached for a moment: instances wait for it, and clients notice nothing.

How long they wait is tested separately (`tests/integration/store/test_database_away.py`). Here they wait longer than a
busy machine needs to start a database, or to connect to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from cluster.postgresql import PostgreSQL
from tests.chaos.support.cluster import Cluster, clustered
from tests.support.http import Answer, fetch, new_ref

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cluster")]

#: Twice the time limit for a start of the database (cluster/postgresql.py).
_PATIENCE_S: Final = 60.0
_TIMEOUT_S: Final = 90.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(own_postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two patient instances."""
    own_postgresql.sql("CREATE DATABASE patience")
    async with clustered(
        own_postgresql,
        own_postgresql.url("patience"),
        tmp_path_factory.mktemp("cluster"),
        count=2,
        lease_s=2 * _PATIENCE_S,
        JOB_TIMEOUT=f"{_TIMEOUT_S:g}",
        PATIENCE_S=f"{_PATIENCE_S:g}",
        WORKER_SPARES="2",
    ) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[ClientSession]:
    """A client for these tests."""
    connector = TCPConnector(force_close=True, limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=2 * _TIMEOUT_S)) as session:
        yield session


def _post(session: ClientSession, cluster: Cluster, **job: Any) -> asyncio.Task[Answer]:
    ref = new_ref()
    return asyncio.create_task(fetch(session, "POST", cluster.queue_job, json={"account": ref, "ref": ref, **job}))


async def test_a_line_that_breaks_is_made_again(cluster: Cluster, session: ClientSession) -> None:
    """Every connection to the database is reset while jobs are in flight: none is lost, and none is refused."""
    answers = [_post(session, cluster, duration=0.3) for _ in range(6)]
    for node in cluster.nodes:
        node.line.cut()
        node.line.mend()
    found = await asyncio.gather(*answers)
    assert [answer.status for answer in found] == [200] * 6, found


async def test_nobody_notices_a_database_that_is_away_for_a_moment(cluster: Cluster, session: ClientSession) -> None:
    """It is killed and started again while jobs come in and go out; each gets its result at the first try."""
    running = [_post(session, cluster, duration=0.5) for _ in range(6)]
    await asyncio.to_thread(cluster.postgresql.kill)
    coming = [_post(session, cluster) for _ in range(6)]
    await asyncio.to_thread(cluster.postgresql.start)
    answers = await asyncio.gather(*running, *coming)
    assert [answer.status for answer in answers] == [200] * 12, answers
