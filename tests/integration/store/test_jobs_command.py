"""`python -m proxy jobs`: on the journal of a running, stopped or killed proxy, and on a database."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from proxy.run import jobs_command
from proxy.store.journal.file import JournalFile
from proxy.store.record import Record
from shared import settings
from shared.errors import Code, SettingsError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.records import a_record, finished
from tests.support.stores import of, on_database
from tests.unit.store.journal.test_migration import VERSION_1

_LOST = Failed(code=Code.WORKER_DIED, detail="it was killed\nby SIGKILL", submitted=Submitted.UNKNOWN)


def _records() -> list[Record]:
    now = time.time()
    return [
        finished(accepted_at=now - 9, finished_at=now - 8, labels={"account": "acme"}),
        finished(accepted_at=now - 7, finished_at=now - 5, callback=None, failure=_LOST, labels={"account": "acme"}),
        a_record(state=State.WAITING, accepted_at=now - 1),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "jobs.sqlite3"


def run(journal: Path | str, *options: str, **variables: str) -> int:
    """Run the command and return the exit status."""
    return jobs_command.main(options, lambda: settings.load({"JOURNAL": str(journal), **variables}))


def test_jobs_are_listed_as_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, newest first, whatever a job server said."""
    records = _records()
    with closing(JournalFile(str(path))) as file:
        file.write(records)
    assert run(path) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["ended", "outcome", "submitted", "took", "labels", "job", "what", "was", "said"]
    assert [next(record.id for record in records if record.id in line) for line in lines] == [
        record.id for record in reversed(records)
    ]
    assert "worker-died  unknown    2.0 s  account=acme" in lines[1]
    assert "it was killed by SIGKILL" in lines[1]
    assert run(path, "--limit", "1") == 0
    assert "There are more" in capsys.readouterr().out


def test_the_options_are_those_of_the_admin_address(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone and together; the status says whether any job was found."""
    records = _records()
    with closing(JournalFile(str(path))) as file:
        file.write(records)
    assert run(path, "--outcome", "failed", "--label", "account=acme", "--since", "1h", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [job["job_id"] for job in document["jobs"]] == [records[1].id]
    assert document["counts"]["code"] == {"worker-died": 1}
    assert run(path, "--ndjson", "--sort", "oldest") == 0
    ids = [json.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()]
    assert ids == [record.id for record in records]
    assert run(path, "--code", "no-worker") == 1
    assert capsys.readouterr().out == ""
    assert run(path, "--help") == 0
    assert "--cancelled-by" in capsys.readouterr().out


def test_output_that_nobody_reads_says_nothing_of_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `| head`: the caller ends quietly then."""
    with closing(JournalFile(str(path))) as file:
        file.write(_records())
    monkeypatch.setattr(jobs_command, "say", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        run(path, "--ndjson")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--since", "soon"], "--since is 'soon'"),
        (["--cancelled-by", "x" * 301], "--cancelled-by has 301 characters"),
        (["--label", "acme"], "--label is 'acme', takes NAME=VALUE"),
        (["--label", "account=\udcff"], r"--label is 'account=\\udcff', which is not UTF-8"),
        (["--cancelled-by", "\udcff"], r"--cancelled-by is '\\udcff', which is not UTF-8"),
        (["--limit", "0"], "--limit is '0'"),
        (["--q", "m\udcfcller"], r"--q is 'm\\udcfcller', which is not UTF-8"),
    ],
)
def test_an_option_that_is_invalid_is_told(path: Path, options: list[str], words: str) -> None:
    """By its own name."""
    with pytest.raises(SettingsError, match=words):
        run(path, *options)


def test_a_journal_that_cannot_be_read_is_told(path: Path) -> None:
    """And no journal is created."""
    with pytest.raises(SettingsError, match="there is no file"):
        run(path)
    assert not path.exists()
    with pytest.raises(SettingsError, match="JOURNAL is empty"):
        run("")
    path.write_bytes(b"something else" * 100)
    with pytest.raises(SettingsError, match="cannot be read: file is not a database"):
        run(path)
    with closing(sqlite3.connect(path.with_name("other"))) as db:
        db.execute("CREATE TABLE things (n)")
    with pytest.raises(SettingsError, match="is not a journal of this proxy"):
        run(path.with_name("other"))


def test_a_journal_that_was_closed_is_left_as_it_was(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte for byte, and nothing is left beside it."""
    with closing(JournalFile(str(path))) as file:
        file.write(_records())
    before = {it.name: it.read_bytes() for it in path.parent.iterdir()}
    assert run(path, "--ndjson") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert {it.name: it.read_bytes() for it in path.parent.iterdir()} == before


def test_what_a_killed_proxy_left_is_read_and_left(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Including what is only in the write-ahead log."""
    with closing(JournalFile(str(path))) as file:
        file.write(_records())
        left = path.with_name("left.sqlite3")
        shutil.copy(path, left)
        shutil.copy(f"{path}-wal", f"{left}-wal")
    before = [Path(name).read_bytes() for name in (left, f"{left}-wal")]
    assert run(left, "--ndjson") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert [Path(name).read_bytes() for name in (left, f"{left}-wal")] == before
    with closing(JournalFile(str(left))) as file:
        assert len(file.unfinished()) == 1


def test_a_journal_that_is_in_use_is_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it can be written meanwhile and afterwards."""
    with closing(JournalFile(str(path))) as file:
        file.write(_records()[:1])
        assert run(path, "--ndjson") == 0
        file.write(_records()[1:])
        assert run(path, "--ndjson") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_journal_of_an_earlier_version_is_read_and_not_brought_up_to_date(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version that wrote it can still use it."""
    with closing(JournalFile(str(path))) as file:
        file.write(_records())
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript("DROP INDEX jobs_failed; DROP INDEX jobs_open; PRAGMA user_version = 3;")
        for column in ("worker_end", "cancelled_by", "trail", "sent"):
            db.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    before = path.read_bytes()
    assert run(path, "--outcome", "failed", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["jobs"]) == 1
    assert run(path, "--state", "open") == 0
    assert path.read_bytes() == before


def test_a_journal_of_the_first_version_is_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the copy from before an upgrade; each facet and text is searched."""
    shutil.copyfile(VERSION_1, path)
    assert run(path, "--json", RESULT_TTL="31536000") == 0
    document = json.loads(capsys.readouterr().out)
    with closing(sqlite3.connect(path)) as db:
        assert sorted(job["job_id"] for job in document["jobs"]) == sorted(
            job_id for (job_id,) in db.execute("SELECT id FROM jobs")
        )
    assert document["counts"]["total"] == len(document["jobs"])
    for options in (["--label", "account=acme"], ["--profile", "cog"], ["--cancelled-by", "any"]):
        assert run(path, *options) == 1
    assert run(path, "--q", "worker", RESULT_TTL="31536000") == 0


def test_a_journal_in_use_is_read_by_any_of_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its write-ahead log is beside the file that a symbolic link leads to; no name has to be UTF-8."""
    path, link = tmp_path / "real" / os.fsdecode(b"\xff? #%"), tmp_path / "link"
    path.parent.mkdir()
    link.symlink_to(path)
    with closing(JournalFile(str(link))) as file:
        file.write(_records())
        for name in (path, link):
            assert run("", "--journal", str(name), "--ndjson") == 0
            assert len(capsys.readouterr().out.splitlines()) == 3


async def test_a_database_is_asked_by_the_same_setting(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a connection that cannot write."""
    store = await on_database(database)
    for record in _records():
        own: Any = of(store, record)
        await store.put(own)
    status = await asyncio.to_thread(run, database, "--outcome", "failed", "--json")
    assert status == 0
    assert len(json.loads(capsys.readouterr().out)["jobs"]) == 1
    await store.close()
    with pytest.raises(SettingsError, match="JOURNAL: cannot use"):
        await asyncio.to_thread(run, f"{database}_not_there")
