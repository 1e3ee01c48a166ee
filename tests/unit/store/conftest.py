"""Both places to remember jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.memory import MemoryStore
from proxy.store.protocol import JobStore

MakeStore = Callable[[float], JobStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "jobs.sqlite3"


@pytest.fixture(params=["memory", "journal"])
async def make_store(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[MakeStore]:
    """Makes a store that forgets after so many seconds."""
    async with AsyncExitStack() as stack:

        def make(ttl_s: float) -> JobStore:
            store: JobStore = (
                MemoryStore(ttl_s) if request.param == "memory" else Journal(JournalFile(str(path)), ttl_s=ttl_s)
            )
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
async def store(make_store: MakeStore) -> JobStore:
    """A store that remembers for an hour."""
    return make_store(3600)


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """A journal that remembers for an hour."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    yield journal
    await journal.close()
