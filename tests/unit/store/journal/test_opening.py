"""Opening the journal: an unusable file is reported in one line, and left as it is."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.store.journal.file import JournalFile
from proxy.store.journal.opening import OLDEST_SQLITE, check_sqlite
from shared.errors import SettingsError
from tests.support.records import finished


def test_a_damaged_journal_is_refused_with_what_to_do(path: Path) -> None:
    """It may have open jobs, so only its owner may decide to discard it."""
    with closing(JournalFile(str(path))) as file:
        file.write([finished() for _ in range(200)])
    pages = bytearray(path.read_bytes())
    pages[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
    path.write_bytes(pages)

    with pytest.raises(SettingsError, match=r"^JOURNAL: .* is damaged .* move it away[^\n]*$"):
        JournalFile(str(path))

    assert path.read_bytes() == pages, "it was changed"


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 100, b"x"])
def test_what_is_no_database_is_refused(path: Path, content: bytes) -> None:
    """And not changed."""
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"^JOURNAL: [^\n]*$"):
        JournalFile(str(path))

    assert path.read_bytes() == content


def test_somebody_elses_database_is_refused(path: Path) -> None:
    """No table is added to it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")

    with pytest.raises(SettingsError, match="not a journal of this proxy"):
        JournalFile(str(path))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With the variable's name, the file's name and the reason."""
    with pytest.raises(SettingsError, match=r"^JOURNAL: cannot open '.*missing/jobs': No such file or directory$"):
        JournalFile(str(tmp_path / "missing" / "jobs"))
    with pytest.raises(SettingsError, match=rf"^JOURNAL: cannot open '{Path.cwd()}/missing/jobs': "):
        JournalFile("missing/jobs")


@pytest.mark.parametrize(("is_there", "cannot"), [(False, "cannot open"), (True, "cannot use")])
def test_a_disk_without_inodes_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool, cannot: str
) -> None:
    """The system calls it full, and SQLite says that it cannot open the file."""
    fields = list(os.statvfs(path.parent))
    fields[5:8] = [100, 0, 0]  # f_files, f_ffree, f_favail
    without_inodes = os.statvfs_result(fields)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "statvfs", lambda _: without_inodes)
    if is_there:
        JournalFile(str(path)).close()
        Path(f"{path}-wal").mkdir()  # SQLite cannot open its log either where it cannot create it
    else:
        monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(SettingsError, match=f"^JOURNAL: {cannot} .*: the disk has no free inodes"):
        JournalFile(str(path))


def test_a_refused_start_lets_go_of_the_lock(path: Path) -> None:
    """So that it is enough to repair the file."""
    path.write_bytes(b"x" * 5000)
    with pytest.raises(SettingsError):
        JournalFile(str(path))
    path.unlink()

    JournalFile(str(path)).close()


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self", "."])
def test_what_is_no_file_is_refused(path: str) -> None:
    """A device or a folder cannot store anything."""
    with pytest.raises(SettingsError, match=r"^JOURNAL: '[^']*' is not a file$"):
        JournalFile(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """It is checked before it is opened."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(SettingsError, match="is not a file"):
        JournalFile(str(pipe))


def test_names_that_sqlite_takes_for_something_else_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./:memory:` is a file, and is stored."""
    monkeypatch.chdir(tmp_path)
    record = finished()

    with closing(JournalFile("./:memory:")) as file:
        file.write([record])

    with closing(JournalFile("./:memory:")) as file:
        assert file.find("id", record.id, 0) == record


def test_a_journal_that_can_only_be_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite opens to be read what it cannot open to be written, such as a log that another user has left behind."""
    JournalFile(str(path)).close()
    monkeypatch.setattr(sqlite3, "connect", partial(_connect_to_read, sqlite3.connect))

    with pytest.raises(SettingsError, match=r"^JOURNAL: cannot use '.*': attempt to write a readonly database$"):
        JournalFile(str(path))
    Path(f"{path}-wal").touch()
    monkeypatch.setattr(os, "access", lambda file, _mode: not str(file).endswith("-wal"))
    with pytest.raises(SettingsError, match=r"^JOURNAL: cannot use '.*': '.*-wal' cannot be written"):
        JournalFile(str(path))


def _connect_to_read(connect: Callable[..., sqlite3.Connection], path: Path, **options: Any) -> sqlite3.Connection:
    return connect(f"{path.as_uri()}?mode=ro", uri=True, **options)


def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as NFS without its lock daemon; the error does not blame another proxy."""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(SettingsError, match=r"^JOURNAL: cannot lock '.*': No locks available; put it on a local disk$"):
        JournalFile(str(path))


def test_a_log_that_was_left_behind_is_not_thrown_away(path: Path) -> None:
    """If a journal was moved without its log, the start fails; SQLite would delete the log with the newest jobs."""
    log = Path(f"{path}-wal")
    log.write_bytes(b"the newest jobs" * 1000)

    with pytest.raises(SettingsError, match=r"^JOURNAL: '.*-wal' was left behind when its journal was moved[^\n]*$"):
        JournalFile(str(path))

    assert log.exists()
    assert not path.exists()


@pytest.mark.parametrize("version", [(3, 24, 0), (3, 7, 17)])
def test_a_sqlite_that_is_too_old_is_told(version: tuple[int, ...]) -> None:
    """With its version, and the one that is needed."""
    dotted = ".".join(str(number) for number in version)

    with pytest.raises(SettingsError, match=rf"^JOURNAL: this Python uses SQLite {dotted}, 3\.26\.0 or newer[^\n]*$"):
        check_sqlite(version)


def test_the_oldest_sqlite_will_do() -> None:
    """And any newer one."""
    check_sqlite(OLDEST_SQLITE)
    check_sqlite((4, 0, 0))


def test_a_sqlite_without_threads_is_told() -> None:
    """Two threads use the journal."""
    with pytest.raises(SettingsError, match=r"^JOURNAL: .* built without threads[^\n]*$"):
        check_sqlite(thread_safety=0)
