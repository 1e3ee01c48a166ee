"""Conditions that select jobs, as SQL for either database, and the parts in which a search goes through the jobs.

Rows are numbered (`n`) in the order in which they were inserted; this orders jobs that ended at the same time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from proxy.store.query import ANY, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import Code

__all__ = [
    "LAST",
    "Dialect",
    "Part",
    "Question",
    "Rows",
    "Source",
    "Sql",
    "Statement",
    "beyond",
    "code",
    "cut",
    "filters",
    "first_part",
    "in_both_cases",
    "member",
    "rest_after",
    "source_of",
    "within_json",
]

#: More than any number of a row.
LAST: Final = 2**62
#: Sorts after every character of an id.
_AFTER_IDS: Final = "~"
#: A character in stored JSON that is not ASCII, and any such character in a pattern for LIKE.
_NOT_ASCII: Final = re.compile(r"\\u[0-9a-f]{4}")
_ANY_CODE: Final = r"\\u____"

Rows = Sequence[Sequence[Any]]
Statement = tuple[str, list[Any]]
T = TypeVar("T")
Question = Generator[Statement, Rows, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the databases. The table is called j."""

    #: The columns that a record is read from, without the bodies of `callback` and `sent`; and their conversion.
    columns: str
    record_of: Callable[[Sequence[Any]], Record]
    #: The FROM clause, by the index to use: end, failed, open, key, id.
    sources: dict[str, str]
    #: The parameter with this number and type (`text`, `float8`, `bytea`, `int8`).
    param: Callable[[int, str], str]
    #: Converts a Unix time to the database's type for times, and a column of that type to Unix time.
    instant: Callable[[str], str]
    unix: Callable[[str], str]
    #: The condition that a job has a label of this name and value.
    label: Callable[[Sql, str, str], str]
    #: Rounds a number that is not negative down to an integer.
    whole: Callable[[str], str]
    #: LIKE, ignoring the case of ASCII letters.
    like: str
    #: The condition that one of the job's texts contains this one.
    says: Callable[[Sql, str], str]
    #: The job server's description of a failure, or else ours.
    words: str
    #: The labels alone, as JSON, for counting.
    labels_alone: str
    instance: str
    owner: str
    says_failed: str


class Sql:
    """The parameters of a statement while it is being built."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.values: list[Any] = []

    def p(self, value: object, kind: str = "text") -> str:
        """Add a parameter with this value; return its placeholder."""
        self.values.append(value)
        return self.dialect.param(len(self.values), kind)

    def at(self, unix_s: float) -> str:
        """Return a time in the database's type."""
        return self.dialect.instant(self.p(unix_s, "float8"))

    def like(self, text: str) -> str:
        """Return the condition on a column before it that it contains this text."""
        return self._like(_escaped(text))

    def like_stored(self, text: str) -> str:
        """Return the condition on stored JSON before it that holds if it contains this text, in whatever case.

        If the text is not ASCII, other JSON may meet it as well.
        """
        return self._like(_NOT_ASCII.sub(_ANY_CODE, _escaped(within_json(text))))

    def _like(self, pattern: str) -> str:
        return f"{self.dialect.like} {self.p(f'%{pattern}%')} ESCAPE '!'"

    def any_of(self, column: str, values: Sequence[object], kind: str = "text") -> str:
        """Return the condition that `column` has one of these values."""
        return f"{column} IN ({', '.join(self.p(value, kind) for value in values)})"


def code(dialect: Dialect) -> str:
    """Return the code of the failure that the client got, in the end or at first; NULL: no failure."""
    return f"CASE WHEN j.code IS NOT NULL THEN j.code WHEN {dialect.says_failed} THEN '{Code.JOB_FAILED}' END"


def _failed(dialect: Dialect) -> str:
    """Return the condition of the index of failed jobs, word for word."""
    return f"(j.code IS NOT NULL OR {dialect.says_failed})"


def member(name: str, value: str) -> str:
    """Return a member of an object as it is written in the stored JSON."""
    return f"{json.dumps(name)}: {json.dumps(value)}"


def within_json(text: str) -> str:
    """Return this part of a text as it is written in the stored JSON."""
    return json.dumps(text)[1:-1]


def in_both_cases(character: str) -> list[str]:
    """Return this letter, small and capital; or the character alone."""
    return sorted({each for each in (character, character.lower(), character.upper()) if len(each) == 1})


def _escaped(text: str) -> str:
    """Return `text` as a part of a pattern for LIKE."""
    for special in "!%_":
        text = text.replace(special, f"!{special}")
    return text


def filters(sql: Sql, query: JobQuery) -> list[str]:
    """Return the conditions of a query, except those on times and keys."""
    return [*_of_outcome(sql, query), *_of_names(sql, query), *([_said(sql, query)] if query.text else [])]


def _of_outcome(sql: Sql, query: JobQuery) -> Iterator[str]:
    if query.states:
        yield sql.any_of("j.state", sorted(query.states))
    if query.failed is False:
        yield f"NOT {_failed(sql.dialect)}"
    if query.of_failures:
        yield _failed(sql.dialect)
    if query.codes:
        yield sql.any_of(code(sql.dialect), sorted(query.codes))
    if query.submitted:
        yield sql.any_of("j.submitted", sorted(query.submitted))


def _of_names(sql: Sql, query: JobQuery) -> Iterator[str]:
    dialect = sql.dialect
    for name, value in query.labels.items():
        yield dialect.label(sql, name, value)
    if query.profiles:
        yield sql.any_of("j.profile", sorted(query.profiles))
    if query.instances:
        names = sorted(query.instances)
        yield f"({sql.any_of(dialect.instance, names)} OR {sql.any_of(dialect.owner, names)})"
    for column, value in (("j.worker_end", query.worker_end), ("j.cancelled_by", query.cancelled_by)):
        if value:
            yield f"{column} <> ''" if value == ANY else f"{column} = {sql.p(value)}"


def _said(sql: Sql, query: JobQuery) -> str:
    """Return the condition that one of the job's texts contains the query's text."""
    said = sql.dialect.says(sql, query.text)
    if query.may_be_id:
        said += f" OR (j.id >= {sql.p(query.text)} AND j.id < {sql.p(query.text + _AFTER_IDS)})"
    return f"({said})"


# --- which jobs are looked at ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where jobs are looked for; `part`: how many jobs are looked at in one go, or None for all."""

    open: str
    ended: str
    part: int | None
    condition: Callable[[Sql], list[str]]


def source_of(dialect: Dialect, query: JobQuery, limits: Limits) -> Question[Source]:
    """Return the index to use: that of keys or of ids if few jobs can match, else those of open and of ended jobs.

    If the ids of some jobs begin with the text, only these jobs match.
    """
    if query.keys:
        keys, by_key = sorted(query.keys), dialect.sources["key"]
        return Source(open=by_key, ended=by_key, part=None, condition=lambda sql: [sql.any_of("j.key", keys, "bytea")])

    def of_ids(sql: Sql) -> list[str]:
        return [f"j.id >= {sql.p(query.text)}", f"j.id < {sql.p(query.text + _AFTER_IDS)}"]

    by_id = dialect.sources["id"]
    if query.may_be_id:
        sql = Sql(dialect)
        if (yield f"SELECT j.id {by_id} WHERE {' AND '.join(of_ids(sql))} LIMIT 1", sql.values):
            return Source(open=by_id, ended=by_id, part=None, condition=of_ids)
    ended = dialect.sources["failed" if query.of_failures else "end"]
    return Source(open=dialect.sources["open"], ended=ended, part=limits.part, condition=lambda _: [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A range of ends; None: no bound."""

    #: The lower bound: inclusive, or exclusive.
    low: float | None = None
    above: float | None = None
    #: The upper bound: inclusive, or exclusive.
    high: float | None = None
    below: float | None = None
    #: Only jobs after this one.
    after: Position | None = None
    #: How far it goes; None: to the end.
    edge: float | None = None
    #: How many jobs it has, matching or not, if it has an edge.
    jobs: int = 0

    def conditions(self, sql: Sql, sort: Sort) -> list[str]:
        """Return the conditions for the jobs of this part."""
        found = ["j.finished_at IS NOT NULL"]
        bounds = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        found += [f"j.finished_at {sign} {sql.at(bound)}" for sign, bound in bounds if bound is not None]
        return found + (beyond(sql, "j.finished_at", self.after, sort) if self.after else [])


def beyond(sql: Sql, column: str, after: Position, sort: Sort) -> list[str]:
    """Return the conditions for the jobs after this one; the first one makes the index usable."""
    sign = ">" if sort is Sort.OLDEST else "<"
    at = sql.at(after.at)
    return [f"{column} {sign}= {at}", f"({column} {sign} {at} OR j.n {sign} {sql.p(after.number, 'int8')})"]


def first_part(query: JobQuery, after: Position | None) -> Part:
    """Return the part with all ended jobs that a query can match, after a position."""
    return Part(low=query.since, below=query.until, after=after)


def cut(dialect: Dialect, query: JobQuery, source: Source, rest: Part, sort: Sort) -> Question[Part]:
    """Return the beginning of `rest`, of the size of a part."""
    if source.part is None:
        return rest
    sql = Sql(dialect)
    where = rest.conditions(sql, sort) + ([_failed(dialect)] if query.of_failures else [])
    oldest = sort is Sort.OLDEST
    inner = (
        f"SELECT {dialect.unix('j.finished_at')} AS ended {source.ended} WHERE {' AND '.join(where)} "
        f"ORDER BY j.finished_at{'' if oldest else ' DESC'} LIMIT {source.part}"
    )
    rows = yield f"SELECT {'max' if oldest else 'min'}(x.ended), count(*) FROM ({inner}) x", sql.values  # noqa: S608
    edge, count = rows[0]
    if count < source.part:
        return rest
    bound = {"high": edge} if oldest else {"low": edge}
    bounds = {"low": rest.low, "above": rest.above, "high": rest.high, "below": rest.below} | bound
    return Part(**bounds, after=rest.after, edge=edge, jobs=count)


def rest_after(query: JobQuery, part: Part, sort: Sort) -> Part:
    """Return the rest after `part`."""
    if sort is Sort.OLDEST:
        return Part(above=part.edge, below=query.until)
    return Part(low=query.since, below=part.edge)
