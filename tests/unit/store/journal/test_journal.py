"""The journal: its file, its lock, what it does when it cannot be written, and how it stays small."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from proxy.store.journal import file as file_module
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.names import Called
from shared.errors import SettingsError, StoreUnavailableError
from shared.lifecycle import State
from tests.support.records import a_record, finished
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import IN_VAIN_S, eventually


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file grow, as with a full disk, a quota or a limit."""
    wal = Path(f"{path}-wal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size if wal.exists() else 0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _has_expired(journal: Journal, count: int) -> bool:
    return journal.writer.upkeep.expired == count


async def test_what_is_noted_is_written_when_nothing_else_is(journal: Journal, path: Path) -> None:
    """Without any request."""
    journal.note(finished())

    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        await eventually(lambda: reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,))


# --- from one process to the next ------------------------------------------------------------------------------------


async def test_the_next_one_finds_what_this_one_was_told(path: Path) -> None:
    """Finished jobs by their names, and open jobs."""
    first = Journal(JournalFile(str(path)), ttl_s=3600)
    done = finished(key=b"k" * 32)
    queued = a_record()
    fate_unknown = a_record(state=State.SUBMITTING)
    waiting = a_record(state=State.WAITING)
    for record in (done, queued, fate_unknown, waiting):
        await first.put(record)
    await first.close()

    second = Journal(JournalFile(str(path)), ttl_s=3600)

    assert await second.by_key(b"k" * 32) == done
    assert await second.unfinished() == [queued, fate_unknown, waiting]
    await second.close()


async def test_what_was_noted_before_the_end_is_written(path: Path) -> None:
    """`close` carries out what is queued, even if no caller waits."""
    first = Journal(JournalFile(str(path)), ttl_s=3600)
    records = [finished() for _ in range(2500)]
    for record in records[:1500]:
        first.put(record)
    for record in records[1500:]:
        first.note(record)
    await first.close()

    second = Journal(JournalFile(str(path)), ttl_s=3600)

    assert all([await second.by_id(record.id) == record for record in records])
    await second.close()


async def test_what_was_noted_is_written_at_the_end_even_if_no_thread_can_be_started(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's limit of processes may be reached."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    first, record = Journal(JournalFile(str(path)), ttl_s=3600), finished()
    first.note(record)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        await first.close()

    second = Journal(JournalFile(str(path)), ttl_s=3600)
    assert await second.by_id(record.id) == record
    await second.close()


async def test_a_journal_is_for_its_owner_only(journal: Journal, path: Path) -> None:
    """It contains results."""
    await journal.put(finished())

    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


async def test_two_proxies_cannot_share_a_journal(journal: Journal, path: Path) -> None:
    """The second one gets a one-line error; the first one continues."""
    with pytest.raises(SettingsError, match=r"^JOURNAL: '.*jobs.sqlite3' is in use by another proxy[^\n]*$"):
        JournalFile(str(path))

    await journal.put(a_record())


async def test_others_may_read_a_journal_that_is_written(journal: Journal, path: Path) -> None:
    """Readers are not locked out, and do not remove the lock."""
    await journal.put(finished())

    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,)

    with pytest.raises(SettingsError, match="in use"):
        JournalFile(str(path))


# --- when it cannot be written ---------------------------------------------------------------------------------------


async def test_a_full_disk_is_trouble_until_there_is_room(journal: Journal, path: Path) -> None:
    """Waiting callers get an error; records to keep are written later, others are not."""
    kept, given_up, before = finished(labels={"account": "acme"}), a_record(), a_record()
    await journal.put(before)

    with full_disk(path):
        with pytest.raises(StoreUnavailableError):
            await journal.put(given_up)
        journal.put(kept, keep=True)
        await eventually(lambda: journal.trouble)
        assert await journal.by_id(before.id) == before
        assert await journal.by_id(kept.id) == kept, "what waits to be written is known"
        assert await journal.by_name(Called("acme")) == kept
    await eventually(lambda: not journal.trouble)

    assert journal.writer.backlog == 0
    assert await journal.by_id(kept.id) == kept
    assert await journal.by_id(given_up.id) is None


async def test_an_end_that_waits_for_room_is_none_yet(journal: Journal, path: Path) -> None:
    """Whoever waits for it may rely on it, such as a queue, whose message is then deleted."""
    kept = finished()
    await journal.put(a_record())
    with full_disk(path):
        journal.put(kept, keep=True)
        await eventually(lambda: journal.trouble)
        ended = asyncio.create_task(journal.ended(kept.id))
        failures = journal.writer.failures
        await eventually(lambda: journal.writer.failures > failures + 1)
        assert await journal.by_id(kept.id) == kept
        assert not ended.done()

    assert await ended == kept


async def test_what_waits_for_room_is_written_at_the_end_if_there_is_room_by_then(path: Path) -> None:
    """Even if it was tried a moment ago: there is no later time."""
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    kept = finished()
    await journal.put(a_record())
    with full_disk(path):
        journal.put(kept, keep=True)
        await eventually(lambda: journal.writer.failures)
        failures = journal.writer.failures
        await eventually(lambda: journal.writer.failures > failures)  # it was tried again a moment ago
    await journal.close()

    with closing(JournalFile(str(path))) as file:
        assert file.find("id", kept.id, 0) == kept


@pytest.mark.parametrize("noted", [False, True])
async def test_the_newest_record_of_a_job_waits_for_room(journal: Journal, path: Path, *, noted: bool) -> None:
    """An older record to keep, or to write some time, does not replace a newer one."""
    await journal.put(a_record())
    older = a_record(state=State.WAITING)
    newer = replace(older, state=State.FINISHED, finished_at=time.time(), callback=b"{}")

    with full_disk(path):
        if noted:
            journal.note(older)
        else:
            journal.put(older, keep=True)
        with pytest.raises(StoreUnavailableError):
            await journal.put(newer)
    await eventually(lambda: not journal.trouble)

    assert await journal.by_id(older.id) == newer


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_a_journal_that_was_removed_is_trouble(path: Path, *, replaced: bool) -> None:
    """Records in a deleted file would not be found again. When it is put back, the journal works again."""
    journal = Journal(JournalFile(str(path)), ttl_s=1)
    await journal.put(a_record())
    aside = path.with_suffix(".aside")
    path.rename(aside)
    if replaced:
        path.write_bytes(aside.read_bytes())

    await eventually(lambda: journal.trouble)
    assert "moved or removed" in journal.trouble

    aside.rename(path)
    await eventually(lambda: not journal.trouble)
    await journal.close()


async def test_damage_that_shows_up_later_ends_the_writing(path: Path) -> None:
    """Nothing more is written to a damaged file, and look-ups fail."""
    records = [finished(callback=b"x" * 3000) for _ in range(2000)]  # more than SQLite keeps in memory
    with closing(JournalFile(str(path))) as file:
        file.write(records)
    journal = Journal(JournalFile(str(path)), ttl_s=3600)
    with path.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(os.urandom(path.stat().st_size - 4096))

    with pytest.raises(StoreUnavailableError):
        await asyncio.gather(*(journal.by_id(record.id) for record in records))
    await eventually(lambda: "damaged" in journal.trouble)
    with pytest.raises(StoreUnavailableError):
        await journal.put(a_record())

    await journal.close()


async def test_a_look_up_that_there_is_no_memory_for_fails_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written with it is recorded: a job server that was told otherwise would send its callback again."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(JournalFile, "find", no_memory)
    found = asyncio.ensure_future(journal.by_id("an id"))
    await asyncio.sleep(0)  # it is ordered now, and put into the same batch as what follows
    await journal.put(a_record())
    with pytest.raises(StoreUnavailableError, match="cannot be read: MemoryError"):
        await found
    assert journal.writer.given_up == 0


# --- what it finds ---------------------------------------------------------------------------------------------------


async def test_each_job_is_found_by_its_name_whatever_part_it_is_in(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that has expired, even if it is not deleted yet."""
    monkeypatch.setattr(file_module, "SEARCHED", 3)
    records = [finished(labels={"name": f"job {number}"}) for number in range(10)]
    for record in [*records, finished(labels={"name": "expired"}, finished_at=time.time() - 7_200)]:
        await journal.put(record)

    assert [await journal.by_name(Called(f"job {number}")) for number in range(10)] == records
    assert await journal.by_name(Called("expired")) is None


def test_what_may_be_lost_matters_as_long_as_it_would_be_remembered(path: Path) -> None:
    """And only to whoever asks for a job that ended before."""
    with closing(JournalFile(str(path))) as file:
        file.lost_before = time.time() - 100
        for ttl_s, since, lost in ((3_600, 0.0, True), (3_600, time.time() - 50, False), (50, 0.0, False)):
            journal = Mock(_file=file, _ttl_s=ttl_s)
            assert Journal.may_have_lost(journal, since) is lost


async def test_an_open_job_is_not_counted_any_more_once_it_has_ended(journal: Journal) -> None:
    """The pause between batches grows with open jobs only, and their ids take memory."""
    record = a_record()
    await journal.put(record)
    await journal.put(replace(record, state=State.FINISHED, finished_at=time.time(), callback=b"{}"))
    assert not journal._open  # noqa: SLF001 - it cannot be seen from outside


# --- how much it costs and takes -------------------------------------------------------------------------------------


async def test_what_comes_at_once_shares_commits(journal: Journal) -> None:
    """A burst of jobs needs few transactions."""
    await asyncio.gather(*(journal.put(a_record()) for _ in range(500)))

    assert journal.writer.commits < 50


async def test_the_loop_goes_on_while_the_journal_is_slow(journal: Journal, path: Path) -> None:
    """Another process holds SQLite's lock: only callers that put something wait."""
    await journal.put(a_record())
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        put = journal.put(a_record())
        for _ in range(50):
            watch = Stopwatch()
            await asyncio.sleep(0.001)
            assert watch.own_s < 0.5
        assert not put.done()
        blocker.execute("COMMIT")

    await asyncio.wait_for(put, IN_VAIN_S)


async def test_the_file_stays_small_however_many_jobs_there_are(path: Path) -> None:
    """Space of expired jobs is reused, and unused space is released."""
    journal = Journal(JournalFile(str(path)), ttl_s=0.2)
    most = 0
    for number in range(1, 9):
        await asyncio.gather(*(journal.put(finished(callback=b"x" * 4000)) for _ in range(200)))
        most = max(most, path.stat().st_size)
        await eventually(functools.partial(_has_expired, journal, 200 * number))

    assert most < 3_000_000, "1,600 jobs of 4 KB were 8 MB"
    assert Path(f"{path}-wal").stat().st_size < 10_000_000
    await journal.close()


async def test_room_that_a_burst_took_is_given_back(path: Path) -> None:
    """In small steps, when its jobs expire."""
    journal = Journal(JournalFile(str(path)), ttl_s=0.2)
    await asyncio.gather(*(journal.put(finished(callback=b"x" * 4000)) for _ in range(1000)))

    await eventually(lambda: journal.writer.upkeep.expired == 1000 and path.stat().st_size < 1_500_000)

    await journal.close()
