"""A journal of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """A journal that remembers for an hour."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    yield journal
    await journal.close()
