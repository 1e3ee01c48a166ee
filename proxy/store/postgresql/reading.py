"""Queries about many jobs, for this database."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from proxy.store.conditions import Dialect, Question, Sql, in_both_cases, member, within_json
from proxy.store.postgresql.rows import COLUMNS_WITHOUT_BODIES, record_of
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from shared.errors import StoreUnavailableError

__all__ = ["DIALECT", "Searches", "answer", "searching"]

T = TypeVar("T")
#: How many questions are asked at once: each has a connection, and whoever reaches the admin address could take all
#: that the server has. And how long one waits for its turn.
_AT_ONCE: Final = 2
_TURN_S: Final = 5.0
_FROM: Final = "FROM proxy_jobs j"
#: Stands for the seconds by which the server's clock is ahead of ours: records are read as if it were not (rows.py).
_AHEAD: Final = "{ahead}"
#: That is rounded to a multiple of this, so that it is the same for all pages of a list.
_STEP_S: Final = 10
#: What is before a text in the value of a member of stored JSON, and not in its name, as a regular expression of
#: PostgreSQL; and what has to be escaped in one.
_IN_A_VALUE: Final = r'": "([^"\\]|\\[^u]|\\u....)*'
_SPECIAL: Final = re.compile(r"[^0-9A-Za-z\x80-\U0010ffff]")


def _says(sql: Sql, text: str) -> str:
    alike = sql.like(text) if text.isascii() else f"~* {sql.p(_either_case(text, stored=False))}"
    in_json, in_value = sql.like_stored(text), sql.p(_IN_A_VALUE + _either_case(text, stored=True))
    members = [f"(j.{column} {in_json} AND j.{column} ~* {in_value})" for column in ("labels", "outputs")]
    return " OR ".join([f"j.detail {alike}", f"j.error {alike}", *members])


def _either_case(text: str, *, stored: bool) -> str:
    """Return a regular expression for this text; `stored`: as it is written in stored JSON.

    Which letters `~*` and ILIKE ignore the case of, besides those of ASCII, depends on the database's locale.
    """
    write = within_json if stored else str
    letters = ([character] if character.isascii() else in_both_cases(character) for character in text)
    return "".join(f"(?:{'|'.join(_escaped(write(case)) for case in cases)})" for cases in letters)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


#: All sources are the same: the planner chooses the index by itself.
DIALECT: Final = Dialect(
    columns=COLUMNS_WITHOUT_BODIES.format(j="j"),
    record_of=record_of,
    sources=dict.fromkeys(("end", "failed", "open", "key", "id"), _FROM),
    param=lambda number, kind: f"${number}::{kind}",
    instant=lambda sql: f"to_timestamp({sql} + ({_AHEAD}))",
    unix=lambda sql: f"(extract(epoch FROM {sql})::float8 - ({_AHEAD}))",
    label=lambda sql, name, value: f"strpos(j.labels, {sql.p(member(name, value))}) > 0",
    whole=lambda sql: f"floor({sql})::int",
    like="ILIKE",
    says=_says,
    words="CASE WHEN j.error <> '' THEN j.error ELSE j.detail END",
    labels_alone="j.labels",
    instance="j.instance",
    owner="j.owner",
    says_failed="j.says_failed",
)


async def answer(session: Session, question: Question[T]) -> T:
    """Return the answer to a question. Raises GoneError, UnfitError; then the session has to be closed.

    Its statements see the database at one moment: a job that ends between two of them is neither missed nor found
    twice. The rows of a part take too long to process for the event loop, so a thread does it.
    """
    found: list[T] = []

    def go_on(rows: Sequence[Sequence[Any]] | None) -> tuple[str, Sequence[Any]] | None:
        """Return the next statement; None: the question is answered."""
        try:
            return next(question) if rows is None else question.send(rows)
        except StopIteration as end:  # it cannot be raised out of a thread
            found.append(end.value)
            return None

    await session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    ahead = await _ahead(session)
    statement = await asyncio.to_thread(go_on, None)
    while statement is not None:
        sql, values = statement
        statement = await asyncio.to_thread(go_on, await session.run(sql.replace(_AHEAD, ahead), *values))
    await session.run("COMMIT")
    return found[0]


async def _ahead(session: Session) -> str:
    before = time.time()
    ((now,),) = await session.run("SELECT extract(epoch FROM clock_timestamp())::float8")
    ahead_s = max(now - time.time(), min(0.0, now - before))  # the answer may have taken long
    return str(round(ahead_s / _STEP_S) * _STEP_S)


class Searches:
    """Queries that may take long; both kinds raise StoreUnavailableError while the database cannot be searched."""

    def __init__(self, session: Session, own_session: Callable[[], Session]) -> None:
        """Short ones use `session`. Each of the others uses one of its own, as other orders cannot wait that long."""
        self._session = session
        self._own_session = own_session
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def rows(self, sql: str, *params: float | str) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a short one."""
        with searching():
            return await self._session.run(sql, *params)

    async def ask(self, question: Question[T]) -> T:
        """Return the answer to a question about many jobs."""
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailableError("too many questions to the database for now") from None
        session = self._own_session()
        try:
            with searching():
                return await answer(session, question)
        finally:
            session.close()
            self._turns.release()


@contextlib.contextmanager
def searching() -> Iterator[None]:
    """Raise StoreUnavailableError instead of GoneError and UnfitError."""
    try:
        yield
    except (GoneError, UnfitError) as exc:
        raise StoreUnavailableError("the database cannot be searched for now") from exc
