"""A journal that version 0.9.0 wrote. `data/version-1.sqlite3` was created by that version's own code."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from proxy.store.deeds import Deed
from proxy.store.journal.file import JournalFile
from proxy.store.journal.schema import VERSION
from proxy.store.record import Record
from shared.errors import Code, SettingsError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.proxy_process import ROOT
from tests.support.records import a_record, finished

#: The columns that version 4 added, and those that version 3 reads and writes.
_SINCE_4: Final = ("worker_end", "cancelled_by", "trail", "sent")
_COLUMNS_OF_3: Final = (
    "id, token_hash, key, fingerprint, accepted_at, deadline_at, profile, state, submitted, finished_at, code, detail, "
    "failure_submitted, callback, says_failed, early, duplicates, remote"
)
_DATA: Final = Path(__file__).parent / "data"
VERSION_1: Final = _DATA / "version-1.sqlite3"
#: With a job and an audit entry, created by the first code that had these.
VERSION_4: Final = _DATA / "version-4.sqlite3"
_T: Final = 1_795_000_000.0

#: Opens a journal, and is killed after a number of steps of the migration.
_KILLED: Final = """
import os, signal, sqlite3, sys
from proxy.store.journal import schema

class Killed(sqlite3.Connection):
    def executescript(self, script):
        self.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), int(sys.argv[2]))
        super().executescript(script)
        os.kill(os.getpid(), signal.SIGKILL)

from pathlib import Path
schema.prepare(sqlite3.connect(sys.argv[1], isolation_level=None, factory=Killed), Path(sys.argv[1]))
"""


@pytest.fixture
def old(path: Path) -> Path:
    """A journal of version 1."""
    shutil.copyfile(VERSION_1, path)
    return path


def _by_number(path: Path, *numbers: int) -> list[Record]:
    with closing(JournalFile(str(path))) as file:
        found = [file.find("id", f"{number:032x}", 0) for number in numbers]
    assert None not in found
    return [record for record in found if record is not None]


def test_open_jobs_of_version_1_mean_what_they_meant(old: Path) -> None:
    """Its `assigned` may have been submitted; and so may its `accepted`, because this may be a copy."""
    accepted, assigned, waiting = _by_number(old, 1, 2, 3)

    assert (accepted.state, accepted.submitted) == (State.SUBMITTING, Submitted.UNKNOWN)
    assert (assigned.state, assigned.submitted) == (State.SUBMITTING, Submitted.UNKNOWN)
    assert (waiting.state, waiting.submitted) == (State.WAITING, Submitted.YES)
    with closing(JournalFile(str(old))) as file:
        assert file.unfinished() == [accepted, assigned, waiting]


def test_finished_jobs_of_version_1_are_answered_again(old: Path) -> None:
    """Byte for byte, whether they succeeded, failed, or succeeded late."""
    done, failed, late, refused, died = _by_number(old, 4, 5, 6, 7, 8)

    assert (done.outcome, done.early, done.duplicates) == (Succeeded(body=b'{"state": "completed"}'), True, 2)
    assert isinstance(failed.outcome, Failed)
    assert (failed.outcome.code, failed.outcome.result) == (Code.JOB_FAILED, b'{"state": "failed", "n": 1e400}')
    assert (late.late, late.outcome) == (True, Succeeded(body=b'{"state": "completed"}'))
    assert refused.outcome == Failed(
        code=Code.JOB_SERVER_UNAVAILABLE, detail="connection refused", submitted=Submitted.NO
    )
    assert died.submitted is Submitted.UNKNOWN


def test_a_callback_of_version_1_is_the_outcome_of_its_job(old: Path) -> None:
    """In version 1, an open job could have one."""
    (record,) = _by_number(old, 9)

    assert (record.state, record.submitted, record.finished_at) == (State.FINISHED, Submitted.YES, _T + 9 + 30)
    assert record.outcome == Succeeded(body=b'{"state": "completed"}')


def test_what_version_1_began_goes_on(old: Path) -> None:
    """Its jobs are found by their tokens and recorded again, and new ones are added."""
    (waiting,) = _by_number(old, 3)
    done = replace(waiting, state=State.FINISHED, finished_at=_T + 10, callback=b"{}")
    new = a_record(id="f" * 32, token_hash=b"t" * 32)

    with closing(JournalFile(str(old))) as file:
        file.write([done, new])

    with closing(JournalFile(str(old))) as file:
        assert file.find("token_hash", waiting.token_hash, 0) == done
        assert file.find("id", new.id, 0) == new


def test_a_journal_is_brought_up_to_date_in_place(path: Path) -> None:
    """Whatever its size: results are not copied."""
    shutil.copyfile(VERSION_1, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE jobs SET callback = zeroblob(20000000) WHERE finished_at IS NOT NULL AND callback IS NOT NULL"
        )
    before = path.stat().st_size

    file = JournalFile(str(path))
    log = Path(f"{path}-wal").stat().st_size
    file.close()

    assert log < 1_000_000
    assert path.stat().st_size <= before + 65_536, "the indexes are new"


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 100, 200])
def test_who_is_killed_while_bringing_it_up_to_date_leaves_it_whole(old: Path, steps: int) -> None:
    """The next start finds either the old journal or the new one, complete."""
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(old), str(steps)], cwd=ROOT, check=False)
    assert killed.returncode == -9

    states = [record.state for record in _by_number(old, *range(1, 10))]

    assert states == [State.SUBMITTING, State.SUBMITTING, State.WAITING, *[State.FINISHED] * 6]


def test_a_damaged_journal_of_version_1_is_left_as_it_is(old: Path) -> None:
    """A file that cannot be read is not upgraded."""
    pages = bytearray(old.read_bytes())
    pages[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    old.write_bytes(pages)

    with pytest.raises(SettingsError, match=r"^JOURNAL: .* is damaged [^\n]*$"):
        JournalFile(str(old))

    assert old.read_bytes() == pages


def test_a_journal_of_version_2_knows_one_job_server(old: Path) -> None:
    """Its table is that of version 1, without the columns for other job servers and their outputs."""
    with closing(sqlite3.connect(old)) as db, db:
        db.execute("UPDATE jobs SET state = 'submitting' WHERE state = 'assigned'")
        db.execute("PRAGMA user_version = 2")

    (record,) = _by_number(old, 4)
    assert (record.profile, record.outputs, record.content_type, record.error) == ("", {}, "", "")
    named = replace(record, outputs={"id": "7"})
    with closing(JournalFile(str(old))) as file:
        file.write([named])
        assert file.find("id", record.id, 0) == named


def test_a_journal_of_version_3_is_brought_up_to_date_and_back(path: Path) -> None:
    """It did not know how a job ended; set back to version 3, it is such a journal with additions."""
    record = finished(labels={"account": "acme"}, worker_end="SIGKILL", trail="{}")
    with closing(JournalFile(str(path))) as file:
        file.write([record])
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript("DROP INDEX jobs_failed; DROP INDEX jobs_open;")
        for column in _SINCE_4:
            db.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 3")

    with closing(JournalFile(str(path))) as file:
        assert file.version == 3
        assert file.find("id", record.id, 0) == replace(record, worker_end="", trail="")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 3")
        row = db.execute(f"SELECT {_COLUMNS_OF_3} FROM jobs").fetchone()  # noqa: S608 - as version 3 does
        marks = ", ".join("?" * len(row))
        written = f"INSERT INTO jobs ({_COLUMNS_OF_3}) VALUES ({marks})"  # noqa: S608 - as above
        db.execute(written, ("e" * 32, b"token", *row[2:]))
    (found,) = _by_number(path, int("e" * 32, 16))
    assert (found.state, found.labels, found.trail) == (record.state, record.labels, "")


def test_a_journal_of_a_later_version_is_refused(path: Path) -> None:
    """With the number of its table, and what to do."""
    JournalFile(str(path)).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(SettingsError, match=r"^JOURNAL: .* was written by a later version of the proxy [^\n]*$"):
        JournalFile(str(path))


def test_who_only_looks_leaves_an_old_journal_as_it_is(old: Path) -> None:
    """So the version that wrote it can still read it."""
    with closing(JournalFile(str(old), upgrade=False)) as file:
        file.probe()
        assert file.version == 1

    with closing(sqlite3.connect(old)) as reader:
        assert reader.execute("PRAGMA user_version").fetchone() == (1,)
        assert "profile" not in {row[1] for row in reader.execute("PRAGMA table_info(jobs)")}


def test_what_operators_do_goes_on_in_a_list_that_there_is(path: Path) -> None:
    """An existing table is not created again, so entries have to fit it."""
    shutil.copyfile(VERSION_4, path)
    with closing(JournalFile(str(path))) as file:
        file.enter([Deed(at=_T, what="resume"), Deed(at=_T, what="log-in")])
        file.write([finished()])
        assert [deed.what for deed in file.deeds(5, None)] == ["log-in", "resume", "pause"]
