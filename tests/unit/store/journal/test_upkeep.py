"""The journal's upkeep: its size, a full disk, and files that others change."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy import log
from proxy.store.journal import opening, upkeep
from proxy.store.journal.checkpoint_thread import Checkpointer
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.journal.place import Place
from proxy.store.journal.reserve import Reserve
from proxy.store.journal.upkeep import Upkeep
from proxy.store.record import Record
from shared.errors import StoreUnavailableError
from tests.support.records import a_record, finished
from tests.support.waiting import eventually

_MIB = 1024 * 1024


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The logged lines."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda _, what, **fields: said.append({"what": what, **fields}))
    return said


def said(lines: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return the lines that begin like this."""
    return [line for line in lines if line["what"].startswith(what)]


# --- a limit in bytes ------------------------------------------------------------------------------------------------


async def test_at_its_limit_the_oldest_finished_jobs_are_forgotten(
    path: Path, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before their time, and once much was written; open jobs stay, and so do the newest."""
    monkeypatch.setattr(upkeep, "_EVERY_S", math.inf)
    monkeypatch.setattr(upkeep, "_TELL_S", math.inf)
    monkeypatch.setattr(upkeep, "_SLICE_S", math.inf)
    JournalFile(str(path)).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE probe SET times = 1 WHERE n = 3")  # the journal is old
    journal = Journal(JournalFile(str(path)), ttl_s=3600, max_bytes=_MIB)
    still_open, begun = a_record(), time.time() - 1000
    await journal.put(still_open)
    records = [finished(callback=b"x" * 4000, finished_at=begun + n) for n in range(1000)]
    for begin in range(0, 1000, 100):
        await asyncio.gather(*(journal.put(record) for record in records[begin : begin + 100]))

    keeper = journal.writer.upkeep
    await eventually(lambda: keeper.evicted and keeper.evicted == 1000 - _finished_in(path))
    assert _finished_in(path) * 4000 > _MIB // 2, "no more than necessary"
    await eventually(lambda: journal.writer.upkeep.size_bytes < 3 * _MIB)
    assert await journal.by_id(records[0].id) is None
    assert await journal.by_id(records[-1].id) == records[-1]
    assert await journal.by_id(still_open.id) == still_open
    assert len(said(lines, "finished jobs were forgotten before RESULT_TTL")) == 1, "it is not repeated all the time"
    newest = begun + keeper.evicted - 1
    assert journal.may_have_lost(newest - 1)
    assert not journal.may_have_lost(newest + 1)
    await journal.close()
    with closing(JournalFile(str(path))) as file:
        assert newest <= file.lost_before, "the next process knows it too"


def _finished_in(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        count: int = reader.execute("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL").fetchone()[0]
        return count


def test_a_journal_keeps_to_a_share_of_its_disk(
    path: Path, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which includes what it takes already; others that fill the disk do not make it smaller."""
    free_mib = 100
    monkeypatch.setattr(Place, "free_bytes", property(lambda _: free_mib * _MIB))
    with closing(JournalFile(str(path))) as file, closing(Checkpointer(file)) as checkpointer:
        file.write([finished(callback=b"x" * 10 * _MIB)])
        keeper = Upkeep(file, checkpointer, ttl_s=3600, max_bytes=40 * _MIB)
        keeper.start()
        room = file.place.size_bytes + file.place.log_bytes + 100 * _MIB
        assert keeper.limit_bytes == room // 2 - 16 * _MIB
        assert [line["limit_bytes"] for line in said(lines, "the disk has less room")] == [keeper.limit_bytes]
        free_mib = 10
        keeper.step()
        assert keeper.limit_bytes == room // 2 - 16 * _MIB
        free_mib = 1000
        keeper.step()
        assert keeper.limit_bytes == 40 * _MIB
        small = Upkeep(file, checkpointer, ttl_s=3600, max_bytes=40 * _MIB)
        free_mib = 10
        small.step()
        room = small.size_bytes + small.log_bytes + 10 * _MIB
        assert small.limit_bytes == room // 4


def test_to_forget_results_takes_little_of_the_log(path: Path) -> None:
    """Otherwise a small disk would be full of what was deleted so that it would not be."""
    with closing(JournalFile(str(path))) as file:
        file.write([finished(callback=b"x" * _MIB) for _ in range(8)])
        assert file.empty_log()

        assert file.evict(8) == 8

        assert file.place.log_bytes < _MIB


# --- a full disk -----------------------------------------------------------------------------------------------------


async def test_before_the_disk_is_full_nothing_is_recorded_and_with_room_all_is_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    await journal.put(a_record())
    monkeypatch.setattr(Place, "free_bytes", property(lambda _: 4096))

    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        await journal.put(a_record())
    kept = finished()
    with pytest.raises(StoreUnavailableError):
        await journal.put(kept, keep=True)
    assert await journal.by_id(kept.id) == kept

    monkeypatch.undo()
    await eventually(lambda: not journal.trouble)
    await journal.put(a_record())
    await journal.close()
    with closing(JournalFile(str(path))) as file:
        assert file.find("id", kept.id, 0) == kept


class _FullDisk(JournalFile):
    """On a disk that is full when a test says so."""

    is_full = False

    def write(self, records: Iterable[Record]) -> None:
        """Write if there is room; nothing needs none."""
        batch = list(records)
        if batch:
            self._check()
        super().write(batch)

    def probe(self) -> None:
        """Write if there is room."""
        self._check()
        super().probe()

    def expire(self, finished_before: float, at_most: int) -> int:
        """Delete if there is room."""
        self._check()
        return super().expire(finished_before, at_most)

    def _check(self) -> None:
        if self.is_full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error


async def test_the_reserve_is_taken_at_the_start_and_is_the_room_that_a_full_disk_has(path: Path) -> None:
    """So is that of the log. When there is room again, the reserve is taken again."""
    file = _FullDisk(str(path))
    reserve, log_of_it, full_bytes = Path(f"{path}-reserve"), Path(f"{path}-wal"), Reserve(path).size_bytes
    journal = Journal(file, ttl_s=3600)
    await journal.put(finished())
    await eventually(lambda: reserve.stat().st_size == full_bytes)
    assert log_of_it.stat().st_size > 0

    file.is_full = True
    with pytest.raises(StoreUnavailableError, match="full"):
        await journal.put(a_record())
    await eventually(lambda: reserve.stat().st_size < full_bytes)
    await eventually(lambda: not log_of_it.stat().st_size)
    failures = journal.writer.failures
    await eventually(lambda: journal.writer.failures > failures + 1)
    assert "full" in journal.trouble, "it is tried, though no record waits"

    file.is_full = False
    await eventually(lambda: not journal.trouble)
    assert reserve.stat().st_size == full_bytes
    await journal.close()


def test_the_reserve_is_given_up_but_for_a_last_bit_and_taken_again(tmp_path: Path) -> None:
    """The rest is for a start on a disk that is still full."""
    reserve = Reserve(tmp_path / "jobs")
    assert reserve.missing_bytes() == 0
    assert reserve.take()
    full = reserve.path.stat()
    assert full.st_size == reserve.size_bytes
    assert full.st_blocks * 512 >= reserve.size_bytes
    assert full.st_mode & 0o077 == 0

    reserve.give_up()
    assert 0 < reserve.path.stat().st_size < reserve.size_bytes
    assert not reserve.held
    assert reserve.take()
    sizes = [reserve.path.stat().st_size]
    while reserve.give_up_last() and reserve.path.exists():
        sizes.append(reserve.path.stat().st_size)
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) > 4, "there is some for several starts"
    assert not reserve.path.exists()
    assert not reserve.give_up_last()


def test_there_has_to_be_room_for_the_next_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log only is still to be written to the file."""
    with closing(JournalFile(str(path))) as file, closing(Checkpointer(file)) as checkpointer:
        keeper = Upkeep(file, checkpointer, ttl_s=3600, max_bytes=1024 * _MIB)
        file.write([finished(callback=b"x" * 20 * _MIB)])
        monkeypatch.setattr(Place, "free_bytes", property(lambda _: 16 * _MIB))

        with pytest.raises(OSError, match="the disk is full: 16 MiB are needed"):
            keeper.check_room(1000)
        checkpointer.close()
        assert file.empty_log()
        keeper.check_room(1000)
        with pytest.raises(OSError, match="the disk is full"):
            keeper.check_room(7 * _MIB)


def test_a_reserve_for_which_there_is_no_room_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the missing size is known."""
    reserve = Reserve(tmp_path / "jobs")
    disk = os.statvfs(tmp_path)
    fields = list(disk)
    fields[4] = 10  # f_bavail
    nearly_full = os.statvfs_result(fields)
    monkeypatch.setattr(os, "fstatvfs", lambda _: nearly_full)
    monkeypatch.setattr(os, "statvfs", lambda _: nearly_full)
    assert not reserve.take()
    assert reserve.missing_bytes() == 2 * reserve.size_bytes - 10 * disk.f_frsize
    monkeypatch.undo()
    assert reserve.take()
    monkeypatch.setattr(os, "fstatvfs", lambda _: nearly_full)
    monkeypatch.setattr(os, "statvfs", lambda _: nearly_full)
    again = Reserve(tmp_path / "jobs")
    assert again.missing_bytes() == 0, "it is there already"
    assert again.take()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_reserve_is_written_where_the_file_system_cannot_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    """Such as some network file systems. If it is full after all, what was written is released."""

    def allocate(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def write(fd: int, data: bytes, at: int) -> int:
        if at > _MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.truncate(fd, at + len(data))
        return len(data)

    reserve = Reserve(tmp_path / "jobs")
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    if is_full:
        monkeypatch.setattr(os, "pwrite", write)

    assert reserve.take() is not is_full

    found = reserve.path.stat()
    assert found.st_size == (0 if is_full else reserve.size_bytes)
    assert found.st_blocks * 512 >= found.st_size


def test_a_reserve_that_is_no_file_of_ours_is_replaced_or_told(tmp_path: Path) -> None:
    """It is not mistaken for a full disk."""
    reserve, elsewhere = Reserve(tmp_path / "jobs"), tmp_path / "elsewhere"
    elsewhere.write_text("something")
    reserve.path.symlink_to(elsewhere)
    assert reserve.take()
    assert not reserve.path.is_symlink()
    assert elsewhere.read_text() == "something"

    reserve = Reserve(tmp_path / "others")
    reserve.path.mkdir()
    with pytest.raises(OSError, match=r"its reserve .*others-reserve. cannot be written: Is a directory"):
        reserve.take()


def test_a_disk_without_inodes_is_not_taken_for_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has space, but the reserve cannot be created."""
    fields = list(os.statvfs(tmp_path))
    fields[5:8] = [100, 0, 0]  # f_files, f_ffree, f_favail
    without_inodes = os.statvfs_result(fields)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reserve = Reserve(tmp_path / "jobs")
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: without_inodes)
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match=r"its reserve .* cannot be written: the disk has no free inodes"):
            reserve.take()
        patch.undo()
        patch.setattr(os, "open", refuse)
        assert not reserve.take(), "it is full"
    assert reserve.take()


# --- files that others change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
async def test_a_log_that_was_removed_is_saved_and_begun_anew(
    path: Path, suffixes: list[str], lines: list[dict[str, Any]]
) -> None:
    """Neither its content nor later records are lost."""
    journal = Journal(JournalFile(str(path)), ttl_s=1_000_000)
    before = [finished() for _ in range(50)]
    await asyncio.gather(*(journal.put(record) for record in before))
    for suffix in suffixes:
        Path(f"{path}{suffix}").unlink()

    await eventually(lambda: said(lines, "the journal's write-ahead log was removed"))
    await eventually(lambda: not journal.trouble)
    after = finished()
    await journal.put(after)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:  # others can read all of it
        assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (51,)
    await journal.close()


async def test_a_log_that_was_removed_is_saved_once_nobody_reads_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is only there as long as somebody has it open."""
    monkeypatch.setattr(opening, "_BUSY_S", 0.1)  # how long it waits for the reader, each time
    journal = Journal(JournalFile(str(path)), ttl_s=1_000_000)
    before = finished()
    await journal.put(before)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        Path(f"{path}-wal").unlink()
        await eventually(lambda: "as long as another process reads it" in journal.trouble)
        failures = journal.writer.failures
        await eventually(lambda: journal.writer.failures > failures + 1)
    await eventually(lambda: not journal.trouble)
    await journal.put(finished())
    journal.writer.checkpointer.make()
    await eventually(lambda: journal.writer.checkpointer.done)
    await journal.close()
    with closing(JournalFile(str(path))) as file:
        assert file.find("id", before.id, 0) == before


async def test_a_log_that_was_replaced_is_not_read(path: Path) -> None:
    """It may be of another time. Once it is removed, the own one is saved."""
    journal = Journal(JournalFile(str(path)), ttl_s=1_000_000)
    before, log_of_it = finished(), Path(f"{path}-wal")
    await journal.put(before)
    content = log_of_it.read_bytes()
    log_of_it.unlink()
    log_of_it.write_bytes(content)

    await eventually(lambda: "was replaced by another file; remove it" in journal.trouble)
    failures = journal.writer.failures
    await eventually(lambda: journal.writer.failures > failures + 1)
    assert "was replaced" in journal.trouble
    log_of_it.unlink()
    await eventually(lambda: not journal.trouble)
    assert await journal.by_id(before.id) == before
    await journal.close()


@pytest.mark.parametrize("shortage", ["threads", "descriptors", "all descriptors"])
async def test_a_log_is_begun_anew_only_with_checkpoints(
    path: Path, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, shortage: str
) -> None:
    """Otherwise it would grow without end: what is missing for them is waited for."""
    journal = Journal(JournalFile(str(path)), ttl_s=1_000_000)
    await journal.put(finished())
    with monkeypatch.context() as patch:
        if shortage == "threads":
            patch.setattr(threading.Thread, "start", _no_thread)
        else:
            connect = partial(_no_second, sqlite3.connect) if shortage == "descriptors" else _no_connection
            patch.setattr(sqlite3, "connect", connect)
        Path(f"{path}-wal").unlink()
        words = {"threads": "more threads", "descriptors": "a second time"}.get(shortage, "cannot use")
        await eventually(lambda: words in journal.trouble)

    await eventually(lambda: not journal.trouble)
    assert not said(lines, "unhandled exception in the journal")
    await journal.put(finished())
    journal.writer.checkpointer.make()
    await eventually(lambda: journal.writer.checkpointer.done)
    await journal.close()


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def _no_connection(*_: object, **__: object) -> sqlite3.Connection:
    raise sqlite3.OperationalError("unable to open database file")


def _no_second(connect: Callable[..., sqlite3.Connection], path: Path | str, **options: Any) -> sqlite3.Connection:
    if isinstance(path, str):
        raise sqlite3.OperationalError("unable to open database file")
    return connect(path, **options)


@pytest.mark.parametrize("left_bytes", [0, 50, 8192], ids=["empty", "half a head", "two pages"])
async def test_a_journal_that_was_cut_off_is_not_written_any_more(path: Path, left_bytes: int) -> None:
    """And it is not healthy: new jobs are refused."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    await asyncio.gather(*(journal.put(finished(callback=b"x" * 4000)) for _ in range(50)))
    journal.writer.checkpointer.make()
    await eventually(lambda: journal.writer.checkpointer.settled)
    os.truncate(path, left_bytes)

    await eventually(lambda: journal.trouble)
    assert "damaged" in journal.trouble
    with pytest.raises(StoreUnavailableError):
        await journal.put(a_record())
    await journal.close()


@pytest.mark.parametrize("written", [b"", b"something else"], ids=["cut off", "overwritten"])
async def test_a_log_that_is_no_longer_one_is_noticed(path: Path, written: bytes) -> None:
    """SQLite does not read its header while it is open; the next process to open it would find nothing."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    await journal.put(finished())
    log = Path(f"{path}-wal")
    with log.open("r+b") as file:
        file.write(written)
        if not written:
            file.truncate()
    with suppress(StoreUnavailableError):  # records after the end of a truncated log leave a hole
        await journal.put(finished())

    await eventually(lambda: journal.trouble)
    assert "damaged" in journal.trouble
    with pytest.raises(StoreUnavailableError):
        await journal.put(a_record())
    await journal.close()


async def test_a_log_that_grows_because_of_a_reader_is_told_and_bounded(
    path: Path, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New jobs are refused before it fills the disk; without the reader, everything works again."""
    monkeypatch.setattr(upkeep, "_LONG_LOG_BYTES", _MIB)
    journal = Journal(JournalFile(str(path)), ttl_s=3600, max_bytes=4 * _MIB)
    await journal.put(finished())
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        for _ in range(6):
            puts = [journal.put(finished(callback=b"x" * 10_000)) for _ in range(100)]
            await asyncio.gather(*puts, return_exceptions=True)
        await eventually(lambda: said(lines, "the journal's write-ahead log grows"))
        await eventually(lambda: "write-ahead log" in journal.trouble)
    await eventually(lambda: not journal.trouble)
    await journal.put(a_record())
    await eventually(lambda: said(lines, "the journal's write-ahead log can be reset again"))
    await journal.close()
