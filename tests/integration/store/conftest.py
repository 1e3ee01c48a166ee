"""Every kind of store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.memory import MemoryStore
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import JobStore
from tests.support.stores import Heard, MakeStore, on_database

MakeInstance = Callable[..., Awaitable[PostgreSQLStore]]


@pytest.fixture(params=["memory", "journal", "postgresql"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Makes a store that forgets jobs after this many seconds."""
    url = request.getfixturevalue("database") if request.param == "postgresql" else ""
    async with AsyncExitStack() as stack:

        async def make(ttl_s: float) -> JobStore:
            store: JobStore
            match request.param:
                case "memory":
                    store = MemoryStore(ttl_s)
                case "journal":
                    store = Journal(JournalFile(str(tmp_path / "jobs.sqlite3")), ttl_s=ttl_s)
                case _:
                    store = await on_database(url, ttl_s=ttl_s)
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
async def store(make_store: MakeStore) -> JobStore:
    """A store that remembers jobs for an hour."""
    return await make_store(3600)


@pytest.fixture
async def instance(database: str) -> AsyncIterator[MakeInstance]:
    """Makes the stores of instances that share a database."""
    async with AsyncExitStack() as stack:

        async def make(name: str, heard: Heard | None = None, *, url: str = database) -> PostgreSQLStore:
            store = await on_database(url, name=name, heard=heard)
            stack.push_async_callback(store.close)
            return store

        yield make
