"""A row that this version would not write, as a record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.journal.file import JournalFile
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.records import finished


def test_a_code_of_a_later_version_is_told_in_words(path: Path) -> None:
    """Its `submitted` still holds."""
    failure = Failed(code=Code.CANCELLED, detail="it was too blue", submitted=Submitted.UNKNOWN)
    record = finished(callback=None, failure=failure)
    with closing(JournalFile(str(path))) as file:
        file.write([record])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE jobs SET code = 'too-blue'")

    with closing(JournalFile(str(path))) as file:
        found = file.find("id", record.id, 0)

    assert found is not None
    assert found.outcome == Failed(
        code=Code.INTERNAL_ERROR, detail="too-blue: it was too blue", submitted=Submitted.UNKNOWN
    )


@pytest.mark.parametrize("detail", ["\ud800", "a \udcff b"])
def test_what_unicode_has_no_bytes_for_is_written_visibly(path: Path, detail: str) -> None:
    """A job server's text may have a lone surrogate, which SQLite cannot store."""
    failure = Failed(code=Code.JOB_REJECTED, detail=detail, submitted=Submitted.NO)
    record = finished(callback=None, failure=failure)

    with closing(JournalFile(str(path))) as file:
        file.write([record])
        found = file.find("id", record.id, 0)

    assert found is not None
    assert found.failure is not None
    assert found.failure.detail == detail.encode("utf-8", "backslashreplace").decode()


def test_whoever_looks_into_the_file_reads_whether_a_job_was_submitted(path: Path) -> None:
    """In a column that the proxy itself does not use."""
    with closing(JournalFile(str(path))) as file:
        file.write([finished()])

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT state, submitted FROM jobs").fetchall() == [("finished", "yes")]
