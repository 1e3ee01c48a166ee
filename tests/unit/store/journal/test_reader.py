"""Questions to a journal that is written meanwhile."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from proxy.store.conditions import Dialect, Question
from proxy.store.journal.file import JournalFile
from proxy.store.journal.reader import answer, connect_to_read
from shared.lifecycle import State
from tests.support.records import a_record


def test_a_job_that_ends_during_a_question_is_neither_missed_nor_found_twice(tmp_path: Path) -> None:
    """Whether ended or open jobs are looked at first; the next question sees it as ended."""
    path = tmp_path / "jobs.sqlite3"
    job = a_record(state=State.WAITING)
    ended = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
    is_open = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
    with closing(JournalFile(str(path))) as file, closing(connect_to_read(path)) as db:
        file.write([job])

        def question(_dialect: Dialect) -> Question[list[int]]:
            first = yield ended, []
            file.write([replace(job, state=State.FINISHED, callback=b"{}", finished_at=job.accepted_at + 1)])
            second = yield is_open, []
            return [first[0][0], second[0][0]]

        assert answer(db, question) == [0, 1]
        assert answer(db, question) == [1, 0]
