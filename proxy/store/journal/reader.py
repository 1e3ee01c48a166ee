"""Queries about many jobs, answered by a separate thread over read-only connections, beside the journal's thread.

A reader of a write-ahead log does not wait and makes nobody wait. It only keeps the log from being restarted, so each
query has its own connection, which its limits keep short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy.store.conditions import Dialect, Question, Sql, in_both_cases, member, within_json
from proxy.store.journal.opening import words_of
from proxy.store.journal.rows import COLUMN_NAMES, record_of
from shared.errors import StoreUnavailableError

__all__ = ["JournalReader", "QuestionOf", "answer", "connect_to_read", "dialect_of"]

T = TypeVar("T")
QuestionOf = Callable[[Dialect], Question[T]]
#: Above every limit of a query: the disk does not answer.
_PATIENCE_S: Final = 5.0
_BUSY_S: Final = 1.0
#: Not read for a list, because it may be large.
_BODIES: Final = {
    "callback": "CASE WHEN j.callback IS NOT NULL THEN x'' END",
    "sent": "CASE WHEN j.sent IS NOT NULL THEN x'' END",
}
#: Columns that a journal of version 1 does not have, or one of version 3, and what they have in its place.
_NEW: Final = {"profile": "''", "remote": "NULL"} | dict.fromkeys(
    ("worker_end", "cancelled_by", "trail", "sent"), "NULL"
)


class JournalReader:
    """Answers questions about one journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "journal-reader")

    async def ask(self, question_of: QuestionOf[T]) -> T:
        """Return the answer. Raises StoreUnavailableError: the file cannot be read."""
        answering = asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question_of)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await answering
        except TimeoutError:
            raise StoreUnavailableError(f"the journal has not answered for {_PATIENCE_S:g} s") from None

    def _answer(self, question_of: QuestionOf[T]) -> T:
        try:
            with contextlib.closing(connect_to_read(self._path)) as db:
                return answer(db, question_of)
        except (sqlite3.Error, ValueError) as exc:
            raise StoreUnavailableError(f"the journal cannot be read: {words_of(exc)}") from exc

    def close(self) -> None:
        """Stop; queries in progress are answered."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def connect_to_read(path: Path, *, settled: bool = False) -> sqlite3.Connection:
    """Return a read-only connection; `settled`: nobody has the file open, and it has no write-ahead log.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    how = "immutable=1" if settled else "mode=ro"
    uri = f"{path.absolute().as_uri()}?{how}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_S)
    try:
        db.execute("PRAGMA query_only = 1")
    except sqlite3.Error:
        db.close()
        raise
    return db


def answer(db: sqlite3.Connection, question_of: QuestionOf[T]) -> T:
    """Return the answer to a query, over this connection. Blocks. Raises sqlite3.Error, ValueError.

    Its statements see the journal at one moment: a job that ends between two of them is neither missed nor found twice.
    """
    question = question_of(dialect_of(db))
    rows: Sequence[Sequence[Any]] = ()
    db.execute("BEGIN")
    try:
        statement = next(question)
        while True:
            sql, values = statement
            rows = db.execute(sql, values).fetchall()
            statement = question.send(rows)
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        if db.in_transaction:  # some errors end it
            db.execute("ROLLBACK")


def dialect_of(db: sqlite3.Connection) -> Dialect:
    """Return the dialect for this journal, which may be of an earlier version."""
    there = {row[1] for row in db.execute("PRAGMA table_info(jobs)")}
    indexes = {row[1] for row in db.execute("PRAGMA index_list(jobs)")}
    lacking = ", ".join(f"{value} AS {name}" for name, value in _NEW.items() if name not in there)
    source = f"FROM (SELECT *, {lacking} FROM jobs) j" if lacking else "FROM jobs j"  # noqa: S608 - our own names
    ways = {
        "end": "jobs_by_end", "failed": "jobs_failed", "open": "jobs_open", "key": "jobs_by_key",
        "id": "sqlite_autoindex_jobs_1",
    }  # fmt: skip
    knows_json = _knows_json(db)
    return Dialect(
        columns=", ".join(_BODIES.get(name, f"j.{name}") for name in COLUMN_NAMES),
        record_of=record_of,
        sources={
            way: f"{source} INDEXED BY {index}" if index in indexes and not lacking else source
            for way, index in ways.items()
        },
        param=lambda number, _kind: f"?{number}",
        instant=str,
        unix=str,
        label=_label if knows_json else _said_somewhere,
        whole=lambda sql: f"CAST({sql} AS INTEGER)",
        like="LIKE",
        says=_says if knows_json else _says_somewhere,
        words="coalesce(nullif(json_extract(j.remote, '$[2]'), ''), j.detail, '')" if knows_json else "j.detail",
        labels_alone="json_extract(j.remote, '$[3]')" if knows_json else "NULL",
        instance="''",
        owner="''",
        says_failed="j.says_failed",
    )


def _label(sql: Sql, name: str, value: str) -> str:
    """Return the condition that a job has this label: the text, which is found quickly, may also be an output's."""
    there = _said_somewhere(sql, name, value)
    return f"({there} AND instr(json_extract(j.remote, '$[3]'), {sql.p(f'{json.dumps(name)}:{json.dumps(value)}')}))"


def _said_somewhere(sql: Sql, name: str, value: str) -> str:
    return f"instr(j.remote, {sql.p(member(name, value))})"


def _says(sql: Sql, text: str) -> str:
    """Return the condition that a text contains this one: part of the JSON, which is found quickly, may be no text."""
    alike, in_json = _alike(sql, text), sql.like_stored(text)
    said = "v.type = 'text' AND (v.path IN ('$[0]', '$[3]') OR v.fullkey = '$[2]')"  # outputs, labels; the error
    exactly = f"EXISTS (SELECT 1 FROM json_tree(j.remote) v WHERE {said} AND v.value {alike})"  # noqa: S608 - parameters
    return f"j.detail {alike} OR (j.remote {in_json} AND {exactly})"


def _says_somewhere(sql: Sql, text: str) -> str:
    return f"j.detail {_alike(sql, text)} OR j.remote {sql.like(within_json(text))}"


def _alike(sql: Sql, text: str) -> str:
    """Return the condition on a text before it that it contains this one, ignoring case, which LIKE does for ASCII."""
    return sql.like(text) if text.isascii() else f"GLOB {sql.p(f'*{_glob(text)}*')}"


def _glob(text: str) -> str:
    letters = ("".join(in_both_cases(character)) for character in text)
    return "".join(f"[{cases}]" if len(cases) > 1 or cases in "*?[" else cases for cases in letters)


def _knows_json(db: sqlite3.Connection) -> bool:
    """Return whether this SQLite was built with its JSON functions, as all are since 3.38."""
    try:
        db.execute("SELECT json_extract('[1]', '$[0]')")
    except sqlite3.OperationalError:
        return False
    return True
