"""An earlier copy of a journal that replaces it is noticed, and its `submitted` is never wrong."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.store.journal import file as file_module
from proxy.store.journal import origin
from proxy.store.journal.file import JournalFile
from proxy.store.journal.origin import Origin, leave_mark, origin_of
from proxy.store.journal.place import log_of
from proxy.store.journal.reserve import Reserve
from proxy.store.record import Record
from shared.lifecycle import State
from tests.support.records import a_record, finished


def open_jobs(path: Path) -> tuple[bool, list[Record]]:
    """Start on a journal; return whether it is a copy, and its open jobs."""
    with closing(JournalFile(str(path))) as file:
        return file.origin is not Origin.LAST, file.unfinished()


@pytest.fixture
def queued(path: Path) -> Record:
    """A job that was not begun, in a journal whose process is dead."""
    record = a_record()
    file = JournalFile(str(path))
    file.write([record, finished()])
    crash(file)
    return record


def crash(file: JournalFile) -> None:
    """Leave the files behind like a process that is killed."""
    left = {path: path.read_bytes() for path in (file.path, log_of(file.path))}
    file._keeps_mark = False  # noqa: SLF001 - a clean end would leave one
    file.close()
    for path, content in left.items():
        path.write_bytes(content)


def test_the_journal_itself_is_believed(path: Path, queued: Record) -> None:
    """After a crash, after a clean end, and after it was moved together with its other files."""
    assert open_jobs(path) == (False, [queued])
    assert open_jobs(path) == (False, [queued])
    moved = path.with_name("moved")
    path.rename(moved)
    Path(f"{path}-mark").rename(f"{moved}-mark")
    assert open_jobs(moved) == (False, [queued])


@pytest.mark.parametrize("how", ["cp", "backup", "vacuum"])
@pytest.mark.parametrize("since", ["a start", "an end"])
def test_of_a_copy_nothing_is_said_not_to_be_submitted(path: Path, queued: Record, how: str, since: str) -> None:
    """However it was made, even if it was written over the same file."""
    copy = path.with_name("copy")
    running = JournalFile(str(path)) if since == "an end" else None
    if how == "cp" and running is None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, copy)
    else:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            if how == "vacuum":
                source.execute("VACUUM INTO ?", (f"{copy}2",))
                Path(f"{copy}2").rename(copy)
            else:
                source.backup(target)
    if running is None:
        running = JournalFile(str(path))
        crash(running)
    else:
        running.close()
    path.write_bytes(copy.read_bytes())
    log_of(path).unlink(missing_ok=True)

    is_copy, (job,) = open_jobs(path)

    assert is_copy
    assert job.id == queued.id
    assert job.state is State.SUBMITTING
    assert open_jobs(path) == (False, [job]), "it is the journal now"


def test_a_copy_of_the_last_run_is_one_though_that_run_had_no_end(path: Path, queued: Record) -> None:
    """It has the same mark as the journal whose process died, but is another file."""
    copy = path.with_name("copy")
    running = JournalFile(str(path))
    with closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))
    crash(running)
    copy.rename(path)

    is_copy, (job,) = open_jobs(path)

    assert is_copy
    assert (job.id, job.state) == (queued.id, State.SUBMITTING)


def test_of_a_journal_whose_log_was_removed_nothing_is_said_not_to_be_submitted(path: Path) -> None:
    """After a crash: it has the mark of its start, but lacks what was recorded since the last checkpoint."""
    record = a_record()
    file = JournalFile(str(path))
    file.write([record])
    assert file.empty_log()
    file.write([replace(record, state=State.SUBMITTING), finished()])
    crash(file)
    log_of(path).unlink()

    is_copy, (job,) = open_jobs(path)

    assert is_copy
    assert (job.id, job.state) == (record.id, State.SUBMITTING)
    with closing(JournalFile(str(path))) as file:
        assert file.lost_before >= record.accepted_at, "jobs may be missing"


def test_who_only_looks_at_a_journal_whose_process_died_leaves_a_log(path: Path, queued: Record) -> None:
    """Its absence would mean that it was removed."""
    with closing(JournalFile(str(path), upgrade=False)) as file:
        assert file.unfinished() == [queued]
    assert open_jobs(path) == (False, [queued])


@pytest.mark.parametrize("beside", [True, False], ids=["where there was a newer one", "where there was none"])
def test_of_a_journal_that_never_had_a_mark_nothing_is_said_not_to_be_submitted(
    path: Path, queued: Record, *, beside: bool
) -> None:
    """An earlier version wrote it, so it is unknown whether it is a copy."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM probe WHERE n = 2")
        db.commit()
    if not beside:
        Path(f"{path}-mark").unlink()

    is_copy, (job,) = open_jobs(path)

    assert is_copy is beside
    assert (job.id, job.state) == (queued.id, State.SUBMITTING)
    assert open_jobs(path) == (False, [job]), "it is the journal now"


def test_a_write_that_nobody_reads_changes_no_mark(path: Path, queued: Record) -> None:
    """Otherwise a journal whose process died after disk errors would count as a copy."""
    file = JournalFile(str(path))
    file.probe()
    crash(file)
    assert open_jobs(path) == (False, [queued])


def test_what_an_earlier_journal_or_the_newer_one_had_may_be_lost(path: Path) -> None:
    """If a journal is new, or a copy; not if it is continued, however its process ended."""
    before = time.time()
    with closing(JournalFile(str(path))) as file:
        assert before <= file.lost_before <= time.time() + 1
        first = file.lost_before
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE probe SET times = 1 WHERE n = 3")  # long ago
        db.commit()
    file = JournalFile(str(path))
    assert file.lost_before == 1.0
    crash(file)
    with closing(JournalFile(str(path))) as file:
        assert file.lost_before == 1.0
    Path(f"{path}-mark").unlink()
    with closing(JournalFile(str(path))) as file:
        assert file.origin is Origin.COPY
        assert file.lost_before >= first


def test_one_that_takes_no_mark_is_a_copy_the_next_time(path: Path, queued: Record) -> None:
    """As on a full disk: a copy from before the start would not differ from it."""
    with closing(JournalFile(str(path))) as file:
        file._db.execute("PRAGMA query_only = 1")  # noqa: SLF001 - like a disk that cannot be written

    is_copy, (job,) = open_jobs(path)

    assert is_copy
    assert (job.id, job.state) == (queued.id, State.SUBMITTING)


@pytest.mark.parametrize(("clock_s", "lost"), [(0.0, False), (7_200.0, True)], ids=["right", "ahead"])
def test_what_expired_while_the_clock_was_ahead_may_be_lost(path: Path, clock_s: float, *, lost: bool) -> None:
    """It is missing when the clock is right again; as it is when RESULT_TTL is raised."""
    ttl_s, now = 3_600.0, time.time()
    JournalFile(str(path)).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE probe SET times = 1 WHERE n = 3")  # the journal is old
        db.commit()
    with closing(JournalFile(str(path))) as file:
        file.write([finished(finished_at=now - 10), finished(finished_at=now - 4_000)])
        assert file.expire(now + clock_s - ttl_s, 10) == (2 if lost else 1)
        assert (file.lost_before > now - ttl_s) is lost
    with closing(JournalFile(str(path))) as file:
        assert (file.lost_before > now - ttl_s) is lost


@pytest.fixture
def full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A disk that is full as long as the reserve has more than this; return whether there is any left."""
    reserve = Reserve(path)
    assert reserve.take()

    def check() -> None:
        if reserve.path.stat().st_size > 65_536:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def look(*given: Any, **named: Any) -> Origin:
        check()
        return origin_of(*given, **named)

    def leave(*given: Any, **named: Any) -> bool:
        with contextlib.suppress(sqlite3.Error):
            check()
            return leave_mark(*given, **named)
        return False

    monkeypatch.setattr(file_module, "origin_of", look)
    monkeypatch.setattr(file_module, "leave_mark", leave)
    return reserve.path.exists


def test_on_a_full_disk_it_is_opened_and_marked_in_the_room_of_the_reserve(
    path: Path, queued: Record, full_disk: Callable[[], bool]
) -> None:
    """Otherwise it would be a copy the next time, and that start might find no room to note it."""
    Path(f"{path}-mark").unlink()  # there is something to note
    assert open_jobs(path)[0]
    is_copy, (job,) = open_jobs(path)
    assert not is_copy
    assert job.id == queued.id
    assert full_disk(), "there is some for the next start"


@pytest.mark.parametrize("left", [None, b"", b"\xff\x00 1"], ids=["gone", "empty", "no text"])
def test_one_whose_mark_is_gone_is_a_copy(path: Path, queued: Record, left: bytes | None) -> None:
    """As on another machine, or a disk that lost it."""
    Path(f"{path}-mark").unlink()
    if left is not None:
        Path(f"{path}-mark").write_bytes(left)
    is_copy, (job,) = open_jobs(path)
    assert is_copy
    assert (job.id, job.state) == (queued.id, State.SUBMITTING)


@pytest.fixture
def reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Restarts the machine, as far as the kernel's id of the boot says so."""
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(origin, "_BOOT", boot)

    def restart() -> None:
        boot.write_text("second\n")

    return restart


def test_after_the_machine_went_down_nothing_is_said_not_to_be_submitted(
    path: Path, reboot: Callable[[], None]
) -> None:
    """The disk may not have the last records: that a job was about to be submitted, or the job itself."""
    record = a_record()
    with closing(JournalFile(str(path))) as file:
        file.write([record])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE probe SET times = 1 WHERE n = 3")  # long ago
        db.commit()
    before = time.time()
    crash(JournalFile(str(path)))
    reboot()

    with closing(JournalFile(str(path))) as file:
        assert file.origin is Origin.CUT
        assert [job.state for job in file.unfinished()] == [State.SUBMITTING]
        assert file.lost_before >= before


def test_a_machine_that_is_restarted_in_order_changes_nothing(path: Path, reboot: Callable[[], None]) -> None:
    """The proxy had ended before."""
    record = a_record()
    with closing(JournalFile(str(path))) as file:
        file.write([record])
    reboot()
    assert open_jobs(path) == (False, [record])


def test_a_kernel_that_does_not_tell_its_boot_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a sandbox."""
    monkeypatch.setattr(origin, "_BOOT", path.with_name("nothing"))
    record = a_record()
    file = JournalFile(str(path))
    file.write([record])
    crash(file)
    assert open_jobs(path)[0] is False
