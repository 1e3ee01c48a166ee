"""Records that wait to be written, and records that can never be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proxy import log
from proxy.store.backlog import Backlog
from proxy.store.deeds import Deed, WaitingDeeds
from proxy.store.journal import file as file_module
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.query import JobQuery, Sort
from proxy.store.record import Record
from shared.errors import SettingsError, StoreUnavailableError
from tests.support.records import a_record, finished
from tests.support.waiting import eventually


def test_beyond_its_bytes_the_oldest_are_given_up() -> None:
    """And counted."""
    backlog = Backlog(max_bytes=50_000)
    records = [finished(callback=b"x" * 10_000) for _ in range(10)]

    for record in records:
        backlog.add(record, keep=True)

    assert [backlog.find("id", record.id) for record in records] == [None] * 6 + records[6:]
    assert backlog.given_up == 6


def test_one_that_is_larger_than_all_may_be_is_given_up_alone() -> None:
    """The others stay, and so does what was known of its job before."""
    backlog = Backlog(max_bytes=50_000)
    known = finished()
    others = {known.id: known} | {record.id: record for record in (finished() for _ in range(3))}
    for record in others.values():
        backlog.add(record, keep=True)

    backlog.add(replace(known, callback=b"x" * 60_000), keep=True)

    assert backlog.records() == others
    assert backlog.given_up == 1


def test_the_oldest_are_those_of_which_nothing_new_came() -> None:
    """One large record may take the place of several."""
    backlog = Backlog(max_bytes=50_000)
    records = [finished(callback=b"x" * 5_000) for _ in range(5)]
    for record in [*records, replace(records[0], duplicates=1)]:
        backlog.add(record, keep=True)

    large = finished(callback=b"x" * 35_000)
    backlog.add(large, keep=True)

    assert list(backlog.records()) == [records[4].id, records[0].id, large.id]


def test_what_need_not_be_kept_is_not() -> None:
    """Unless it replaces an older record of the same job."""
    backlog = Backlog()
    kept, dropped = a_record(), a_record()
    newer = finished(id=kept.id, token_hash=kept.token_hash)
    backlog.add(dropped, keep=False)
    backlog.add(kept, keep=True)

    backlog.add(newer, keep=False)

    assert backlog.records() == {kept.id: newer}


class _Picky(JournalFile):
    """Refuses records with a certain callback, as SQLite refuses those above a gigabyte."""

    def write(self, records: Iterable[Record]) -> None:
        """Write, unless there is such a record."""
        batch = list(records)
        if any(record.callback == b"too much" for record in batch):
            raise sqlite3.DataError("string or blob too big")
        super().write(batch)


async def test_a_record_that_cannot_be_written_does_not_keep_others_from_it(path: Path) -> None:
    """Only that one is given up, and its caller gets the error."""
    journal = Journal(_Picky(str(path)), ttl_s=3600)
    before, too_much, after = finished(), finished(callback=b"too much"), finished()
    puts = [journal.put(record, keep=True) for record in (before, too_much, after)]

    await puts[0]
    with pytest.raises(StoreUnavailableError, match="cannot be recorded: string or blob too big"):
        await puts[1]
    await puts[2]

    assert journal.trouble == ""
    assert [await journal.by_id(record.id) for record in (before, too_much, after)] == [before, None, after]
    assert journal.writer.given_up == 1
    await journal.close()


class _Buggy(JournalFile):
    """Has a bug."""

    def find(self, column: str, value: str | bytes, finished_after: float) -> Record | None:
        """Fail in a way that no disk does."""
        raise KeyError(column)


async def test_a_bug_fails_the_batch_and_not_the_thread(path: Path) -> None:
    """No caller waits forever."""
    journal = Journal(_Buggy(str(path)), ttl_s=3600)

    with pytest.raises(StoreUnavailableError, match="KeyError"):
        await journal.by_id("f" * 32)
    await journal.put(a_record())

    assert journal.writer.commits == 1
    await journal.close()


async def test_a_row_that_cannot_be_read_is_told(path: Path) -> None:
    """Its state does not exist."""
    record = a_record()
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    await journal.put(record)
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE jobs SET state = 'lost'")
    db.close()

    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        await journal.by_id(record.id)
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        await journal.jobs(JobQuery(), sort=Sort.NEWEST, limit=1)
    with pytest.raises(SettingsError, match=r"^JOURNAL: cannot use '.*': the journal cannot be read: 'lost' is not"):
        await journal.unfinished()
    await journal.put(a_record())
    await journal.close()


async def test_nothing_is_written_any_more_once_a_look_up_has_met_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else can still be read or written."""

    def damaged(*_: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "find", damaged)
        with pytest.raises(StoreUnavailableError):
            await journal.by_id("f" * 32)
    failures = journal.writer.failures
    await eventually(lambda: journal.writer.failures > failures + 1)
    assert "damaged" in journal.trouble
    assert journal.writer.commits == 0
    await journal.close()


class _Full(JournalFile):
    """Has no room for audit entries, for a while."""

    is_full = True

    def enter(self, deeds: Sequence[Deed]) -> None:
        """Write them if there is room."""
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        super().enter(deeds)


async def test_what_operators_did_is_kept_until_it_can_be_written_and_is_there_after_a_start(path: Path) -> None:
    """No caller had to wait, and meanwhile it is in the list, where it will be."""
    file = _Full(str(path))
    file.is_full = False
    journal = Journal(file, ttl_s=3600)
    journal.enter(Deed(at=1.0, what="log-in"))
    assert [deed.what for deed in await journal.deeds(10, None)] == ["log-in"]
    file.is_full = True
    for what in ("stop", "pause"):
        journal.enter(Deed(at=1.0, what=what))
    waiting = await journal.deeds(10, None)
    assert [deed.what for deed in waiting] == ["pause", "stop", "log-in"]
    assert await journal.deeds(1, None) == waiting[:1]
    assert await journal.deeds(10, waiting[0].n) == waiting[1:]
    file.is_full = False
    journal.enter(Deed(at=2.0, what="resume"))

    async def written() -> bool:
        with closing(sqlite3.connect(path)) as db:
            return bool(db.execute("SELECT count(*) FROM audit").fetchone()[0] == 4)

    await eventually(written)
    assert (await journal.deeds(10, None))[1:] == waiting
    await journal.close()

    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    assert [deed.what for deed in await journal.deeds(10, None)] == ["resume", "pause", "stop", "log-in"]
    await journal.close()


def test_what_is_kept_of_what_operators_did_is_the_newest_of_either_kind() -> None:
    """So that failed log-ins do not displace actions."""
    deeds = [Deed(at=float(number), what="stop" if number < 5 else "failed log-in") for number in range(20)]
    few, many = WaitingDeeds(3), WaitingDeeds(100)
    for deed in deeds:
        few.add(deed)
        many.add(deed)
    assert (few.pending(), few.dropped) == ([*deeds[2:5], *deeds[17:]], 14)
    assert (many.pending(), many.dropped) == (deeds, 0)
    few.clear()
    assert (len(few), few.dropped) == (0, 0)


async def test_how_many_entries_are_missing_at_the_end_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that could not be written, and those that were too many to wait for that."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda _, what, **fields: lines.append({"what": what, **fields}))
    journal = Journal(_Full(str(path)), ttl_s=3600)
    for _ in range(2):
        for number in range(700):
            journal.enter(Deed(at=float(number), what="stop"))
        await journal.deeds(1, None)
    await journal.close()

    assert [line["entries"] for line in lines if line["what"].startswith("the audit list lacks")] == [1_400]


def test_the_newest_of_either_kind_are_kept_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is written twice is there once."""
    monkeypatch.setattr(file_module, "KEPT", 5)
    monkeypatch.setattr(file_module, "KEPT_MINOR", 3)
    deeds = [Deed(at=float(number), what="log-in" if number % 2 else "stop") for number in range(20)]
    with closing(JournalFile(str(path))) as file:
        for begin in range(0, 20, 5):
            file.enter(deeds[begin : begin + 5])
            file.enter(deeds[begin : begin + 5])
        kept = sorted([*deeds[10::2], *deeds[15::2]], key=lambda deed: -deed.at)
        assert [deed.id for deed in file.deeds(50, None)] == [deed.id for deed in kept]


async def test_what_there_was_no_memory_for_is_written_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like what there was no room for."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    journal, kept = Journal(JournalFile(str(path)), ttl_s=3600), finished()
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "write", no_memory)
        with pytest.raises(StoreUnavailableError, match="cannot be written: MemoryError"):
            await journal.put(kept, keep=True)
    await eventually(lambda: not journal.trouble)
    await journal.close()
    with closing(JournalFile(str(path))) as file:
        assert file.find("id", kept.id, 0) == kept
