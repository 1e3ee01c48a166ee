"""Checkpoints, which are made concurrently with the writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.journal.checkpoint_thread import Checkpointer
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from tests.support.records import finished
from tests.support.waiting import eventually, eventually_blocking


async def _write_much(journal: Journal) -> None:
    """Some 12 MB in all."""
    for _ in range(15):
        await asyncio.gather(*(journal.put(finished(callback=b"x" * 4000)) for _ in range(100)))


async def test_the_log_begins_anew_while_records_are_written(journal: Journal, path: Path) -> None:
    """The log does not grow forever, although the writer makes no checkpoints."""
    for _ in range(3):
        await _write_much(journal)

    await eventually(lambda: journal.writer.checkpointer.done >= 2)
    assert Path(f"{path}-wal").stat().st_size < 30_000_000, "36 MB were written"


async def test_who_reads_the_file_for_long_holds_up_nobody(journal: Journal, path: Path) -> None:
    """The log grows meanwhile, and is reset afterwards."""
    await journal.put(finished())
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM jobs").fetchone()
        await _write_much(journal)
        assert reader.execute("SELECT count(*) FROM jobs").fetchone() == seen
        assert journal.writer.checkpointer.done == 0

    await _write_much(journal)
    await eventually(lambda: journal.writer.checkpointer.done > 0)


async def test_a_journal_that_is_closed_has_no_threads(path: Path) -> None:
    """Neither the writer nor the checkpoint thread."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    await _write_much(journal)
    await journal.close()
    ours = {"journal", "checkpoint"}
    await eventually(lambda: not any(thread.name in ours for thread in threading.enumerate()))
    assert not Path(f"{path}-wal").exists(), "all is in the file itself"


# --- without SQLite's bug --------------------------------------------------------------------------------------------


class _Watched(Checkpointer):
    """Reports which checkpoints it makes, and whether the writer could commit meanwhile."""

    def __init__(self, file: JournalFile) -> None:
        self.made: list[tuple[str, bool]] = []
        super().__init__(file)

    def _try(self, statement: str) -> tuple[int, ...] | None:
        if "wal_checkpoint" in statement:
            self.made.append((statement.partition("(")[2].rstrip(")"), self._file.committing.locked()))
        return super()._try(statement)


@pytest.fixture
def file(path: Path) -> Iterator[JournalFile]:
    """The journal's file."""
    with closing(JournalFile(str(path))) as file:
        yield file


@pytest.fixture
def checkpointer(file: JournalFile) -> Iterator[_Watched]:
    """Makes checkpoints of that file."""
    with closing(_Watched(file)) as checkpointer:
        checkpointer.make()
        eventually_blocking(lambda: checkpointer.done == 1)
        assert checkpointer.made == [("RESTART", True)], "it is not known what is in the log"
        checkpointer.made.clear()
        yield checkpointer


def test_the_log_is_started_anew_only_while_nobody_commits(file: JournalFile, checkpointer: _Watched) -> None:
    """The writer waits for the second step, and only for that."""
    file.write([finished()])

    checkpointer.make()
    eventually_blocking(lambda: checkpointer.done == 2)

    assert checkpointer.made == [("PASSIVE", False), ("RESTART", True)]


@pytest.mark.parametrize("change", ["nothing", "nothing expired"])
def test_no_checkpoint_begins_beside_the_writer_while_the_log_could_be_started_anew(
    file: JournalFile, checkpointer: _Watched, change: str
) -> None:
    """SQLite's bug needs that: everything was moved, and a commit comes before the next checkpoint reads the log."""
    file.write([finished()])
    checkpointer.make()
    eventually_blocking(lambda: checkpointer.done == 2)
    checkpointer.made.clear()
    if change == "nothing expired":
        file.expire(0.0, 10)

    checkpointer.make()
    eventually_blocking(lambda: checkpointer.done == 3)

    assert [kind for kind, locked in checkpointer.made if not locked] == []


def test_whoever_writes_to_the_file_at_the_moment_prevents_no_start(file: JournalFile, path: Path) -> None:
    """Such as an operator's shell: that the file is locked does not mean that it can only be read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(Checkpointer(file)) as checkpointer:
            other.execute("COMMIT")
            checkpointer.make()
            eventually_blocking(lambda: checkpointer.done)


def test_a_checkpoint_that_there_is_no_memory_for_is_not_the_last(
    checkpointer: _Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the log would grow without end."""
    tried = threading.Event()

    class Poor:
        def execute(self, _statement: str) -> None:
            tried.set()
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "_db", Poor())
        checkpointer.make()
        eventually_blocking(tried.is_set)

    checkpointer.make()
    eventually_blocking(lambda: checkpointer.done >= 2)


def test_the_writer_makes_no_checkpoints(file: JournalFile, path: Path) -> None:
    """SQLite would make one after a thousand pages."""
    for _ in range(20):
        file.write([finished(callback=b"x" * 1_000_000)])

    assert path.stat().st_size < 100_000
    assert Path(f"{path}-wal").stat().st_size > 20_000_000
