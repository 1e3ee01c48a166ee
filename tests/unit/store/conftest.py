"""A journal for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from tests.support.jumping_loop import jumping_loops


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests without threads and files on a jumping loop."""
    return jumping_loops(config, item) if item.path.stem == "test_notes" else {"usual": asyncio.new_event_loop}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the journal."""
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """A journal that remembers jobs for an hour."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    yield journal
    await journal.close()
