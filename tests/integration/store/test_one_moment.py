"""Questions to a database that is written meanwhile; tests/unit/store/journal/test_reader.py asks a journal."""

from __future__ import annotations

import asyncio
import contextlib
import time

from msgspec.structs import replace

from proxy.store.conditions import Question
from proxy.store.postgresql.opening import reading_session
from proxy.store.postgresql.reading import DIALECT, answer
from proxy.store.protocol import TakenError
from shared.lifecycle import State
from tests.integration.store.conftest import MakeInstance
from tests.support.records import a_record
from tests.support.stores import of

_ENDED = "SELECT count(*) FROM proxy_jobs WHERE finished_at IS NOT NULL"
_OPEN = "SELECT count(*) FROM proxy_jobs WHERE finished_at IS NULL"


async def test_a_job_that_ends_during_a_question_is_neither_missed_nor_found_twice(
    instance: MakeInstance, database: str
) -> None:
    """Whether ended or open jobs are looked at first; the next question sees it as ended."""
    store, loop = await instance("a"), asyncio.get_running_loop()
    job = of(store, a_record(state=State.SUBMITTING))
    await store.put(job)

    async def end() -> None:
        with contextlib.suppress(TakenError):  # the second time
            await store.put(replace(job, state=State.FINISHED, callback=b"{}", finished_at=time.time()))

    def question() -> Question[list[int]]:
        ((ended,),) = yield _ENDED, []
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        ((still_open,),) = yield _OPEN, []
        return [ended, still_open]

    with contextlib.closing(await reading_session(database)) as session:
        assert await answer(session, question()) == [0, 1]
        assert await answer(session, question()) == [1, 0]


async def test_a_job_that_is_found_late_has_the_same_times(instance: MakeInstance, database: str) -> None:
    """They are converted from the database's clock, which goes on while a long search is under way."""
    store = await instance("a")
    await store.put(of(store, a_record(state=State.SUBMITTING)))

    now = DIALECT.columns.split("extract")[0].count(",")

    def question() -> Question[list[float]]:
        find = f"SELECT {DIALECT.columns} FROM proxy_jobs j"  # noqa: S608 - our own names
        (before,) = yield find, []
        (after,) = yield find, []
        return [before[now], after[now]]

    with contextlib.closing(await reading_session(database)) as session:
        before, after = await answer(session, question())
    assert after > before
