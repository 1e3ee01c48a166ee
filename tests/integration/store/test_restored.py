"""A database that may lack jobs: it is new, was restored from a backup, or forgot jobs earlier than it does now."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cluster.postgresql import PostgreSQL
from proxy.store.postgresql import leases
from proxy.store.postgresql.store import PostgreSQLStore
from shared.lifecycle import State, Submitted
from tests.support.records import a_record, finished
from tests.support.stores import Heard, of, on_database
from tests.support.waiting import eventually

MakeInstance = Callable[..., Awaitable[PostgreSQLStore]]


async def test_there_may_have_been_jobs_before_the_tables(instance: MakeInstance) -> None:
    """In a database that was lost."""
    for name in ("first", "second"):
        store = await instance(name)
        assert store.may_have_lost()
        assert store.may_have_lost(time.time() - 60)
        assert not store.may_have_lost(time.time() + 60)


async def test_jobs_that_another_instance_remembers_for_less_time_may_be_missing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`RESULT_TTL` was raised at one instance after the other, and some are deleted after the first one's start."""
    monkeypatch.setattr(leases, "_EXPIRE_S", 0.1)
    old = await on_database(database, ttl_s=1)
    new = await on_database(database, ttl_s=3600)
    job = finished(accepted_at=time.time(), finished_at=time.time())
    await old.put(of(old, job))
    before = (job.finished_at or 0.0) - 0.001
    assert not new.may_have_lost(before)

    await eventually(lambda: new.may_have_lost(before))

    assert await new.by_id(job.id) is None
    assert not old.may_have_lost(before), "its time was over"
    later = await on_database(database, ttl_s=3600)
    assert later.may_have_lost(before)
    for store in (old, new, later):
        await store.close()


async def test_the_commands_after_a_restore_say_that_jobs_may_be_missing_or_submitted(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """Those of docs/cluster.md. Without them, a job that was submitted since the backup would end with `no`."""
    name = database.rpartition("/")[2]
    before = await instance("before")
    record = of(before, a_record())
    await before.put(record)
    await before.close()
    postgresql.sql("UPDATE proxy_meta SET lost_before = 'epoch'", name)  # the tables are older than RESULT_TTL

    page = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text("utf-8")
    commands = re.findall(r"^    (UPDATE proxy_.+;)$", page, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        postgresql.sql(command, name)

    heard = Heard()
    store = await instance("after", heard)
    (taken,) = await eventually(lambda: heard.taken_over)
    assert (taken.id, taken.state, taken.submitted) == (record.id, State.SUBMITTING, Submitted.UNKNOWN)
    assert store.may_have_lost(time.time() - 60)
