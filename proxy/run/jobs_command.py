"""`python -m proxy jobs`: the answer of `GET /jobs` on the admin address, read from the journal itself.

It changes neither the file nor the database, and does not disturb a running proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from proxy.api.clients.request_headers import Authorization
from proxy.api.operators.job_documents import line, page_document
from proxy.api.operators.job_filters import FILTERS, LABEL, Asked, cursor_of, read
from proxy.run.preflight import say
from proxy.store.conditions import Dialect, Question
from proxy.store.fields import storable
from proxy.store.journal.opening import words_of
from proxy.store.journal.reader import answer, connect_to_read
from proxy.store.query import JobPage, Limits, Sort, remembered
from proxy.store.search import counts
from proxy.store.search import page as page_of
from shared.database_url import is_database
from shared.errors import ParameterError, SettingsError

if TYPE_CHECKING:
    from proxy.store.query import Position
    from proxy.store.record import Record
    from shared.settings import Settings

__all__ = ["main"]

T = TypeVar("T")
_NONE: Final = 1
_PAGE: Final = 200
#: Generous: no other request waits meanwhile.
_LIMITS: Final = Limits(seconds=5.0)
_DETAIL: Final = 60
_HEADS: Final = ("ended", "outcome", "submitted", "took", "labels", "job", "what was said")
_ABOUT: Final = """\
List the jobs that the journal remembers (JOURNAL, from the environment or .env), newest first, like GET
/jobs on the admin address. It only reads, whether or not a proxy runs on the journal.
"""
_END: Final = """\
exit status: 0 jobs were found; 1 there are none; 2 an option is invalid, or the journal cannot be read
"""


class _Ask(Protocol):
    """Answers questions about many jobs."""

    def __call__(self, question_of: Callable[[Dialect], Question[T]], /) -> T: ...


def main(argv: Sequence[str], settings_of: Callable[[], Settings]) -> int:
    """List jobs; return the exit status.

    Raises:
        SettingsError: an option or a setting is invalid, or the journal cannot be read.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    if given.help:
        say(parser.format_help().rstrip("\n"))
        return 0
    settings = settings_of()
    asked = _asked(given, settings)
    meant = remembered(asked.query, time.time() - settings.result_ttl)
    with _journal(settings, given.journal) as ask:
        return _show(ask, dataclasses.replace(asked, query=meant), given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m proxy jobs",
        description=_ABOUT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help and exit")
    for name, takes in FILTERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="X", help=takes)
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label and its value")
    parser.add_argument("--sort", metavar="X", help="newest, oldest, slowest")
    parser.add_argument("--limit", metavar="N", help="at most this many jobs (50; with --ndjson: all)")
    parser.add_argument("--after", metavar="X", help="continue after the value of `next` in an earlier answer")
    parser.add_argument(
        "--journal", metavar="X", help="use this journal instead of JOURNAL: a file, or a postgresql:// URL"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object, with counts, as GET /jobs answers")
    form.add_argument("--ndjson", action="store_true", help="one JSON object a line, for each job")
    return parser


def _asked(given: argparse.Namespace, settings: Settings) -> Asked:
    options = {name: getattr(given, name) for name in (*FILTERS, "sort", "limit", "after")}
    pairs = [(name, value) for name, value in options.items() if value is not None]
    for name, value in [*pairs, *(("label", label) for label in given.label)]:
        if storable(value) != value:  # an argument's bytes that are not UTF-8
            raise SettingsError(f"--{name.replace('_', '-')} is {value!r}, which is not UTF-8")
    for label in given.label:
        name, separator, value = label.partition("=")
        if not separator or not name:
            raise SettingsError(f"--label is {label!r}, takes NAME=VALUE")
        pairs.append((f"{LABEL}{name}", value))
    try:
        return read(pairs, Authorization(settings.api_keys).holders)
    except ParameterError as exc:
        option = exc.parameter or ""
        raise SettingsError(exc.detail.replace(f"`{option}`", f"--{option.replace('_', '-')}", 1)) from exc


# --- the journal -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _journal(settings: Settings, other: str | None) -> Iterator[_Ask]:
    journal = settings.journal if other is None else other
    if not journal:
        raise SettingsError("JOURNAL is empty: jobs are remembered by the running proxy only; ask its admin address")
    with _database(journal) if is_database(journal) else _file(Path(journal)) as ask:
        yield ask


@contextlib.contextmanager
def _file(path: Path) -> Iterator[_Ask]:
    """Ask a file. If it has no write-ahead log, no proxy uses it, and it is read as immutable."""
    log = Path(f"{os.path.realpath(path)}-wal")
    try:
        if not path.is_file():
            raise SettingsError(f"JOURNAL: there is no file {str(path.absolute())!r}; --journal names another")
        with contextlib.closing(connect_to_read(path, settled=not log.exists())) as db:
            if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'jobs'").fetchone()[0]:
                raise SettingsError(f"JOURNAL: {str(path)!r} is not a journal of this proxy")

            def ask(question_of: Callable[[Dialect], Question[T]]) -> T:
                return answer(db, question_of)

            yield ask
    except BrokenPipeError:  # of the output, nobody reads it any more
        raise
    except (sqlite3.Error, OSError) as exc:
        raise SettingsError(f"JOURNAL: {str(path)!r} cannot be read: {words_of(exc)}") from exc


@contextlib.contextmanager
def _database(url: str) -> Iterator[_Ask]:
    from proxy.store.postgresql.opening import reading_session, unusable  # noqa: PLC0415 - with its driver
    from proxy.store.postgresql.reading import DIALECT  # noqa: PLC0415
    from proxy.store.postgresql.reading import answer as answer_by  # noqa: PLC0415
    from proxy.store.postgresql.session import GoneError, UnfitError  # noqa: PLC0415

    with asyncio.Runner() as runner:
        try:
            session = runner.run(reading_session(url))
        except (GoneError, UnfitError) as exc:
            raise unusable(url, exc) from exc

        def ask(question_of: Callable[[Dialect], Question[T]]) -> T:
            return runner.run(answer_by(session, question_of(DIALECT)))

        try:
            yield ask
        except (GoneError, UnfitError) as exc:
            raise unusable(url, exc) from exc
        finally:
            session.close()


# --- output ----------------------------------------------------------------------------------------------------------


def _show(ask: _Ask, asked: Asked, given: argparse.Namespace) -> int:
    if given.ndjson:
        found, last = _say_lines(_pages(ask, asked, asked.limit))
    else:
        *_, last = pages = list(_pages(ask, asked, asked.page_limit))
        records = [record for page in pages for record in page.records]
        found = len(records)
        if given.json:
            counted = ask(lambda dialect: counts(dialect, asked.query, limits=_LIMITS)) if asked.counts else None
            now = time.time()
            say(json.dumps(page_document([line(record, now) for record in records], last, asked.sort, counted)))
        elif records:
            _say_table(records, last, asked.sort)
    if last.looked_at is not None and not given.json:
        since = datetime.fromtimestamp(last.searched_to or 0.0).astimezone().isoformat(timespec="seconds")
        sys.stderr.write(f"The slowest of the {last.looked_at} jobs that ended since {since}; --until has others\n")
    return 0 if found else _NONE


def _say_lines(pages: Iterator[JobPage]) -> tuple[int, JobPage]:
    """Print the jobs, one a line, as they are read; return how many there were, and the last page."""
    found = 0
    for page in pages:
        for record in page.records:
            say(json.dumps(line(record, time.time())))
        found += len(page.records)
    return found, page


def _say_table(records: Sequence[Record], last: JobPage, sort: Sort) -> None:
    say("\n".join(_table(records)))
    if last.next is not None:
        say(f"There are more: --limit N (up to 500), or --after {cursor_of(last.next, sort)}")


def _pages(ask: _Ask, asked: Asked, limit: int | None) -> Iterator[JobPage]:
    """Yield pages, at least one, with `limit` jobs in all; without `searched_to` if the next continues the search."""
    after, left = asked.after, limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        question_of = partial(_page_question, asked=asked, size=size, after=after)
        found = ask(question_of)
        left = None if left is None else left - len(found.records)
        yield found if asked.sort is Sort.SLOWEST else dataclasses.replace(found, searched_to=None)
        after = found.next
        if after is None:
            return


def _page_question(dialect: Dialect, *, asked: Asked, size: int, after: Position | None) -> Question[JobPage]:
    return page_of(dialect, asked.query, sort=asked.sort, limit=size, after=after, limits=_LIMITS)


def _table(found: Sequence[Record]) -> list[str]:
    now = time.time()
    rows = [_HEADS, *(_row(line(record, now)) for record in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    ended = job["finished_at"]
    said = _printable(job["error"] or job["detail"])
    return (
        "" if ended is None else datetime.fromtimestamp(ended).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        job["outcome"] or job["state"],
        job["submitted"],
        f"{job['total_ms'] / 1000:.1f} s",
        " ".join(_printable(f"{name}={value}") for name, value in job["labels"].items()),
        job["job_id"],
        said if len(said) <= _DETAIL else f"{said[:_DETAIL]}…",
    )


def _printable(text: str) -> str:
    """Return a text of a job without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
