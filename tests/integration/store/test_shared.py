"""What instances that share a database may write, and what they learn from each other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from cluster.postgresql import PostgreSQL
from proxy.store.deeds import Deed
from proxy.store.names import Called
from proxy.store.patterns import Grid
from proxy.store.postgresql.ends import pause
from proxy.store.postgresql.session import GoneError, Session
from proxy.store.postgresql.statements import (
    DELETE,
    END_OVERDUE,
    ENDED,
    FIND,
    FORGET_INSTANCES,
    GONE,
    OVERDUE,
    PIECE,
    SEEN_TO,
    TAKE_CANCELLED,
    TAKE_OVER,
    UNSURE,
)
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import TakenError
from proxy.store.query import JobQuery, Position, Sort
from proxy.store.record import Record
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.records import a_record, finished
from tests.support.stores import BRISK, Heard, alike, of
from tests.support.waiting import eventually

MakeInstance = Callable[..., Awaitable[PostgreSQLStore]]


def failed(record: Record, code: Code, submitted: Submitted) -> Record:
    """Return the record of a job that failed like this."""
    failure = Failed(code=code, detail="so it is", submitted=submitted)
    return replace(record, state=State.FINISHED, finished_at=time.time(), failure=failure)


def called_back(record: Record, body: bytes = b"{}") -> Record:
    """Return the record of a job whose callback came."""
    return replace(record, state=State.FINISHED, finished_at=time.time(), callback=body)


async def test_one_of_two_instances_begins_the_job_of_a_key(instance: MakeInstance) -> None:
    """However close the race: the other instance is told which job has the key."""
    a, b = await instance("a"), await instance("b")
    for number in range(20):
        key = number.to_bytes(32)
        records = [of(store, a_record(state=State.SUBMITTING, key=key)) for store in (a, b)]

        results = await asyncio.gather(a.put(records[0]), b.put(records[1]), return_exceptions=True)

        (won,) = (i for i, result in enumerate(results) if result is None)
        lost = results[1 - won]
        assert isinstance(lost, TakenError)
        assert alike(lost.record, records[won])
        assert await b.by_id(records[1 - won].id) is None


async def test_an_instance_holds_nothing_of_a_job_whose_end_another_one_has_recorded(instance: MakeInstance) -> None:
    """Even if it was noted once more afterwards: memory would grow with each callback that came elsewhere."""
    a, b = await instance("a"), await instance("b")
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(3)]
    ends = [asyncio.create_task(a.ended(record.id)) for record in records]
    for record in records:
        await a.put(record)
    assert a.open_jobs == len(records)
    for record in records:
        await b.put(called_back(record))
    await asyncio.gather(*ends)
    assert a.open_jobs == 0

    for record in records:
        a.note(replace(record, state=State.WAITING))
    await a.by_name(Called(records[0].id))  # the note is recorded first
    assert a.open_jobs == 0


async def test_a_late_note_takes_nothing_from_an_end(instance: MakeInstance) -> None:
    """The owner has not heard yet of the callback that another instance has recorded."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    ended = replace(called_back(record), early=True, trail="[]", worker_end="killed")
    await b.put(ended)

    a.note(replace(record, state=State.WAITING))
    await a.by_name(Called(record.id))  # the note is recorded first

    assert alike(await a.by_id(record.id), ended)


async def test_a_job_that_is_only_noted_is_open(instance: MakeInstance) -> None:
    """Batches are paced by the open jobs, and most of a burst waits for a worker, which is a note."""
    a = await instance("a")
    for _ in range(3):
        a.note(of(a, a_record()))
    assert a.open_jobs == 3


async def test_what_operators_did_at_any_instance_is_one_list(instance: MakeInstance) -> None:
    """It is still there when that instance has ended."""
    a, b = await instance("a"), await instance("b")
    a.enter(Deed(at=time.time(), what="pause", who="anna", instance="a"))
    await a.deeds(1, None)
    b.enter(Deed(at=time.time(), what="drain", who="ben", instance="b"))
    await b.close()
    found = [(deed.what, deed.who, deed.instance) for deed in await a.deeds(10, None)]
    assert found == [("drain", "ben", "b"), ("pause", "anna", "a")]


async def test_a_key_is_free_again_once_its_job_was_certainly_not_submitted(instance: MakeInstance) -> None:
    """At once, at any instance; whatever the outcome was otherwise, the key stays taken."""
    a, b = await instance("a"), await instance("b")
    for submitted in Submitted:
        key = submitted.value.encode().ljust(32)
        first = of(a, a_record(state=State.SUBMITTING, key=key))
        await a.put(first)
        await a.put(failed(first, Code.JOB_SERVER_UNAVAILABLE, submitted))
        second = of(b, a_record(state=State.SUBMITTING, key=key))

        (result,) = await asyncio.gather(b.put(second), return_exceptions=True)

        assert (result is None) is (submitted is Submitted.NO)
        holder = await a.by_key(key)
        assert holder is not None
        assert holder.id == (second.id if result is None else first.id)
        with pytest.raises(TakenError):
            await b.put(of(b, a_record(state=State.SUBMITTING, key=key)))


@pytest.mark.parametrize("how", ["cancelled elsewhere", "overdue"])
async def test_a_key_is_free_again_once_its_job_was_ended_for_its_owner(instance: MakeInstance, how: str) -> None:
    """If no worker had it: by a cancellation at another instance, or after its deadline."""
    a, b = await instance("a"), await instance("b")
    left_s = -3 if how == "overdue" else 30
    record = of(a, a_record(key=b"k" * 32, deadline_at=time.time() + left_s))
    await a.put(record)
    if how == "overdue":
        assert (await a.ended(record.id)).submitted is Submitted.NO
    else:
        await b.put(failed(record, Code.CANCELLED, Submitted.NO))

    again = of(b, a_record(state=State.SUBMITTING, key=b"k" * 32))
    await b.put(again)

    assert alike(await a.by_key(b"k" * 32), again)


async def test_a_key_belongs_to_its_holder_though_a_job_that_was_not_submitted_was_recorded_later(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim got no answer, so its job ended as not submitted; another instance claims the key in that moment."""
    a, b = await instance("a"), await instance("b")
    key = b"k" * 32
    holder = of(b, a_record(state=State.SUBMITTING, key=key))
    session = a._writing  # noqa: SLF001 - the connection that writes
    run = session.run

    async def too_early(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        rows = await run(sql, *params)
        if sql == FIND["key"] and await b.by_id(holder.id) is None:
            await b.put(holder)
        return rows

    monkeypatch.setattr(session, "run", too_early)
    await a.put(failed(of(a, a_record(key=key)), Code.JOURNAL_UNAVAILABLE, Submitted.NO))

    for store in (a, b):
        assert alike(await store.by_key(key), holder)
        with pytest.raises(TakenError) as taken:
            await store.put(of(store, a_record(key=key)))
        assert taken.value.record.id == holder.id


async def test_the_owner_alone_goes_on_with_a_job_and_ends_it(instance: MakeInstance) -> None:
    """Others may cancel it; then `submitted` is what was recorded, not what they assume."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record())
    await a.put(record)
    with pytest.raises(TakenError):
        await b.put(replace(record, owner=b.instance, state=State.SUBMITTING))
    with pytest.raises(TakenError):
        await b.put(failed(replace(record, owner=b.instance), Code.INTERRUPTED, Submitted.NO))
    await a.put(replace(record, state=State.SUBMITTING))

    await b.put(failed(record, Code.CANCELLED, Submitted.NO))

    found = await a.by_id(record.id)
    assert found is not None
    assert found.failure is not None
    assert (found.failure.code, found.submitted) == (Code.CANCELLED, Submitted.UNKNOWN)
    with pytest.raises(TakenError) as taken:
        await a.put(failed(record, Code.DEADLINE_EXCEEDED, Submitted.NO))
    assert alike(taken.value.record, found)


@pytest.mark.parametrize("at", [0, 1])
async def test_a_job_that_was_cancelled_is_not_submitted(instance: MakeInstance, at: int) -> None:
    """Here or elsewhere: its owner is told when it records that it is about to."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record())
    await a.put(record)
    cancelled = replace(failed(record, Code.CANCELLED, Submitted.NO), cancelled_by="the operator anna")
    await (a, b)[at].put(cancelled)

    with pytest.raises(TakenError) as taken:
        await a.put(replace(record, state=State.SUBMITTING))

    assert alike(taken.value.record, cancelled)


async def test_a_cancellation_takes_no_result_away(instance: MakeInstance) -> None:
    """It was decided before the callback came."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    ended = called_back(record)
    await a.put(ended)

    cancelling = b.put(failed(record, Code.CANCELLED, Submitted.UNKNOWN))

    assert alike(await b.by_id(record.id), ended)  # after the cancellation was tried
    with pytest.raises(TakenError) as taken:
        await cancelling
    assert alike(taken.value.record, ended)


async def test_the_first_callback_counts_wherever_it_comes(instance: MakeInstance) -> None:
    """Also after a failure, which stays; the sender of a second one is told about the first."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    seen = await b.by_token(record.token_hash)
    assert seen is not None
    ended = failed(record, Code.DEADLINE_EXCEEDED, Submitted.UNKNOWN)
    await a.put(ended)

    await b.put(replace(called_back(seen), finished_at=time.time() + 60))

    found = await a.by_id(record.id)
    assert found is not None
    assert (found.callback, found.failure, found.late, found.owner) == (b"{}", ended.failure, True, a.instance)
    assert found.took_s(0.0) < 30  # it has ended when it failed
    with pytest.raises(TakenError) as taken:
        await a.put(called_back(ended, b'{"n": 2}'))
    assert alike(taken.value.record, found)
    assert alike(await a.by_name(Called(record.id)), found)  # whoever put it counts it as a duplicate


async def test_the_same_callback_at_two_instances_at_once_is_a_callback_and_a_duplicate(instance: MakeInstance) -> None:
    """Byte for byte: a job server that got no answer from one instance sends it to the next."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    a.note(replace(record, state=State.WAITING))

    results = await asyncio.gather(*(each.put(called_back(record)) for each in (a, b)), return_exceptions=True)

    (taken,) = (result for result in results if result is not None)
    assert isinstance(taken, TakenError)
    assert taken.record.callback == b"{}"


async def test_a_callback_whose_answer_was_lost_is_no_duplicate_of_itself(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement is executed twice, and its sender is told once that it is recorded."""
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    writing = a._writing  # noqa: SLF001 - its connection
    run_all = writing.run_all
    lost: list[Any] = []

    async def lose_one(*args: Any, **kwargs: Any) -> list[Sequence[tuple[Any, ...]]]:
        rows = await run_all(*args, **kwargs)
        if not lost:
            lost.append(rows)
            raise GoneError("the answer was lost")
        return rows

    monkeypatch.setattr(writing, "run_all", lose_one)
    await a.put(called_back(record))
    assert lost


async def test_two_callbacks_of_one_job_in_a_batch_are_one(instance: MakeInstance) -> None:
    """From two instances at once, and from one."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)

    results = await asyncio.gather(
        *(store.put(called_back(record, body)) for store, body in ((a, b"1"), (b, b"2"), (b, b"3"))),
        return_exceptions=True,
    )

    found = await a.by_id(record.id)
    assert found is not None
    assert {None if result is None else type(result) for result in results} <= {None, TakenError}
    won = [body for body, result in zip((b"1", b"2", b"3"), results, strict=True) if result is None]
    assert found.callback in won


async def test_batches_of_two_instances_that_lock_the_same_jobs_never_wait_for_one_another(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """Each has its callbacks in a different order, many times."""
    a, b = await instance("a"), await instance("b")
    for _ in range(5):
        records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(100)]
        await asyncio.gather(*(a.put(record) for record in records))
        puts = [a.put(called_back(record, b"a")) for record in records]
        puts += [b.put(called_back(record, b"b")) for record in reversed(records)]

        results = await asyncio.gather(*puts, return_exceptions=True)

        assert sum(result is None for result in results) == len(records)
        assert sum(isinstance(result, TakenError) for result in results) == len(records)
    assert "deadlock" not in postgresql.log


async def test_the_owner_hears_of_what_another_recorded(instance: MakeInstance) -> None:
    """Whoever waits for the end gets it, and the notes that came before."""
    heard = Heard()
    a, b = await instance("a", heard), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    waiting = asyncio.create_task(a.ended(record.id))
    b.note(replace(record, refused=1, refusal="no JSON"))
    b.tell(record)
    await eventually(lambda: [(it.refused, it.refusal) for it in heard.changed] == [(1, "no JSON")])

    await b.put(called_back(record))
    b.tell(record)

    assert (await waiting).callback == b"{}"
    await eventually(lambda: [it.callback for it in heard.changed] == [None, b"{}"])


async def test_all_hear_that_a_failed_job_was_submitted(instance: MakeInstance) -> None:
    """The notice comes after the note, though the job has ended; any instance may show the job."""
    heard, other = Heard(), Heard()
    a, b, _ = await instance("a", heard), await instance("b"), await instance("c", other)
    record = failed(of(a, a_record(state=State.SUBMITTING)), Code.JOB_REJECTED, Submitted.NO)
    await a.put(record)
    b.note(record.proven())

    def told() -> bool:
        b.tell(record.proven(), to_all=True)  # again: they may not listen yet, and then it is lost
        return bool(heard.changed and other.changed)

    await eventually(told, every_s=0.3)
    assert {it.submitted for it in heard.changed + other.changed} == {Submitted.YES}


async def test_the_end_is_found_though_the_notice_is_lost(instance: MakeInstance) -> None:
    """If the notice is lost, the end is looked up."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    waiting = asyncio.create_task(a.ended(record.id))

    await b.put(called_back(record))

    assert (await waiting).callback == b"{}"
    assert reading(a, "cluster_notices_lost") == 1


async def test_what_an_instance_leaves_open_is_taken_over(instance: MakeInstance) -> None:
    """A job that was certainly not submitted has failed, and its key is free; others go on. The old owner is fenced."""
    heard = Heard()
    a = await instance("a", Heard())
    b = await instance("b", heard)
    queued = of(a, a_record(key=b"k" * 32))
    begun = of(a, a_record(state=State.SUBMITTING))
    await asyncio.gather(a.put(queued), a.put(begun))
    await b.put(of(b, a_record(state=State.SUBMITTING)))

    await stop_beats(a)  # as if the process were stopped

    await eventually(lambda: len(heard.taken_over) == 2)
    by_id = {record.id: record for record in heard.taken_over}
    assert by_id[queued.id].failure is not None
    assert (by_id[queued.id].state, by_id[queued.id].submitted) == (State.FINISHED, Submitted.NO)
    assert (by_id[begun.id].state, by_id[begun.id].owner) == (State.SUBMITTING, b.instance)
    assert by_id[begun.id].origin == a.instance
    for record in (replace(queued, state=State.SUBMITTING), failed(begun, Code.WORKER_DIED, Submitted.UNKNOWN)):
        with pytest.raises(TakenError):
            await a.put(record)
    await b.put(of(b, a_record(state=State.SUBMITTING, key=b"k" * 32)))


@pytest.mark.parametrize("is_executed", [True, False])
async def test_a_job_that_was_taken_over_though_the_answer_was_lost_is_waited_for(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, *, is_executed: bool
) -> None:
    """As with any other, and once; otherwise nobody would ask its job server for the result."""
    heard = Heard()
    lost: list[Any] = []
    a, b = await instance("a"), await instance("b", heard)
    session = b._reading  # noqa: SLF001 - the connection of the takeovers
    run = session.run

    async def lose(sql: str, *params: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if sql == TAKE_OVER and not lost and not is_executed:
            lost.append(())
            raise GoneError("the connection broke")
        rows = await run(sql, *params, **options)
        if sql == TAKE_OVER and rows:
            lost.append(rows)
            if len(lost) == 1:
                raise GoneError("the connection broke")
        return rows

    monkeypatch.setattr(session, "run", lose)
    first, second = of(a, a_record(state=State.SUBMITTING)), of(a, a_record(state=State.WAITING))
    await a.put(first)
    await stop_beats(a)
    await eventually(lambda: lost)
    await a.put(second)

    await eventually(lambda: len(heard.taken_over) == 2)
    assert [record.id for record in heard.taken_over] == [first.id, second.id]
    assert {record.owner for record in heard.taken_over} == {b.instance}


async def test_a_job_that_another_instance_has_just_taken_over_is_left_to_it(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    """When an instance is gone, the others notice it at the same moment; and so is one whose callback has just come."""
    heard = Heard()
    a, b, c = await instance("a"), await instance("b", heard), await instance("c")
    session = b._reading  # noqa: SLF001 - the connection of the takeovers
    run = session.run
    taken = of(a, a_record(state=State.SUBMITTING))
    left = of(a, a_record(state=State.SUBMITTING))
    ended = of(a, a_record(state=State.SUBMITTING))

    async def race(sql: str, *params: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        rows = await run(sql, *params, **options)
        if sql == GONE and rows:
            async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
                await other.execute("UPDATE proxy_jobs SET owner = %s WHERE id = %s", (c.instance, taken.id))
            await c.put(called_back(ended))
        return rows

    monkeypatch.setattr(session, "run", race)
    await asyncio.gather(*(a.put(record) for record in (taken, left, ended)))
    await stop_beats(a)

    await eventually(lambda: heard.taken_over)
    assert [record.id for record in heard.taken_over] == [left.id]


async def test_an_instance_that_beats_again_at_the_last_moment_keeps_its_jobs(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was only slow."""
    heard, taken = Heard(), []
    a, b = await instance("a"), await instance("b", heard)
    session = b._reading  # noqa: SLF001 - the connection of the takeovers
    run = session.run

    async def race(sql: str, *params: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if sql == TAKE_OVER:
            await a._leases._beat()  # noqa: SLF001 - just in time
        rows = await run(sql, *params, **options)
        if sql == TAKE_OVER:
            taken.append(len(rows))
        return rows

    monkeypatch.setattr(session, "run", race)
    await a.put(of(a, a_record(state=State.SUBMITTING)))
    await stop_beats(a)

    await eventually(lambda: taken)
    assert set(taken) == {0}
    assert heard.taken_over == []


async def test_thousands_of_jobs_are_taken_over_without_a_pause(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement takes a limited number; if there are more, the next one follows at once."""
    heard, pauses = Heard(), []

    async def noted(end: asyncio.Event, seconds: float) -> None:
        pauses.append((len(heard.taken_over), seconds))
        await pause(end, seconds)

    monkeypatch.setattr("proxy.store.postgresql.leases.pause", noted)
    a, _ = await instance("a"), await instance("b", heard)
    await asyncio.gather(*(a.put(of(a, a_record(state=State.SUBMITTING))) for _ in range(3 * SEEN_TO)))

    await stop_beats(a)

    await eventually(lambda: len(heard.taken_over) == 3 * SEEN_TO)
    assert {SEEN_TO, 2 * SEEN_TO} <= {taken for taken, seconds in pauses if not seconds}


async def test_what_ends_without_the_instance_that_has_it_is_given_up_by_one_other(instance: MakeInstance) -> None:
    """It has to cancel it at the job server: a job that was cancelled after the last beat, or that was overdue."""
    heard = [Heard(), Heard()]
    a, b, _ = await instance("a"), await instance("b", heard[0]), await instance("c", heard[1])
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(3)]
    known, unknown, called = records
    never = of(a, a_record())
    await asyncio.gather(*(a.put(record) for record in (*records, never)))
    await b.put(failed(known, Code.CANCELLED, Submitted.UNKNOWN))
    await a._leases._beat()  # noqa: SLF001 - it has heard of this one
    await stop_beats(a)
    for record in (unknown, called, never):
        await b.put(failed(record, Code.CANCELLED, Submitted.UNKNOWN))
    await b.put(called_back(called))
    overdue = of(a, a_record(state=State.SUBMITTING, deadline_at=time.time() - 2))
    await a.put(overdue)
    later = of(a, a_record(state=State.SUBMITTING))
    await a.put(later)

    await eventually(lambda: heard[0].taken_over + heard[1].taken_over)
    await eventually(lambda: len(heard[0].given_up + heard[1].given_up) > 1)

    given_up = heard[0].given_up + heard[1].given_up
    assert sorted(record.id for record in given_up) == sorted([unknown.id, overdue.id])
    assert all(record.state is State.FINISHED for record in given_up)


@pytest.mark.parametrize("is_executed", [True, False])
@pytest.mark.parametrize("sql", [END_OVERDUE, TAKE_CANCELLED], ids=["overdue", "cancelled"])
async def test_a_job_is_given_up_though_the_answer_to_its_end_was_lost(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, sql: str, *, is_executed: bool
) -> None:
    """Once, and when it has ended; otherwise nobody would cancel it at the job server."""
    heard = Heard()
    lost: list[Any] = []
    a, b = await instance("a"), await instance("b", heard)
    session = b._reading  # noqa: SLF001 - the connection that ends the jobs of others
    run = session.run

    rounds: list[str] = []

    async def lose(asked: str, *params: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if asked == OVERDUE:
            rounds.append(asked)
        if asked == UNSURE and len(lost) == 1:
            lost.append(())
            raise GoneError("the server is not back yet")
        if asked == sql and not lost and not is_executed:
            lost.append(())
            raise GoneError("the connection broke")
        rows = await run(asked, *params, **options)
        if asked == sql and rows:
            lost.append(rows)
            if len(lost) == 1:
                raise GoneError("the connection broke")
        return rows

    monkeypatch.setattr(session, "run", lose)
    await stop_beats(a)
    records: list[Record] = []

    async def give_up_one_more() -> None:
        await a._leases._beat()  # noqa: SLF001 - its last one must not be long ago
        left_s = -2 if sql == END_OVERDUE else 30
        record = of(a, a_record(state=State.SUBMITTING, deadline_at=time.time() + left_s))
        records.append(record)
        await a.put(record)
        if sql == TAKE_CANCELLED:
            await b.put(failed(record, Code.CANCELLED, Submitted.UNKNOWN))

    await give_up_one_more()
    await eventually(lambda: heard.given_up)
    seen = len(rounds)
    await eventually(lambda: len(rounds) >= seen + 2)
    await give_up_one_more()

    await eventually(lambda: len(heard.given_up) == 2)
    assert sorted(record.id for record in heard.given_up) == [record.id for record in records]
    assert all(record.failure is not None for record in heard.given_up)
    assert reading(b, "cluster_jobs_overdue") == (2 if sql == END_OVERDUE else 0)


@pytest.mark.parametrize("sql", [END_OVERDUE, TAKE_CANCELLED], ids=["overdue", "cancelled"])
async def test_a_job_whose_callback_has_just_come_is_not_given_up(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """Its result stays as it is."""
    heard = Heard()
    a, b = await instance("a"), await instance("b", heard)
    session = b._reading  # noqa: SLF001 - the connection that ends the jobs of others
    run = session.run
    taken: list[Any] = []

    async def race(asked: str, *params: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if asked == sql and not taken:
            await b.put(called_back(record))
        rows = await run(asked, *params, **options)
        if asked == sql:
            taken.append(rows)
        return rows

    monkeypatch.setattr(session, "run", race)
    await stop_beats(a)
    left_s = -2 if sql == END_OVERDUE else 30
    record = of(a, a_record(state=State.SUBMITTING, deadline_at=time.time() + left_s))
    await a.put(record)
    if sql == TAKE_CANCELLED:
        await b.put(failed(record, Code.CANCELLED, Submitted.UNKNOWN))

    await eventually(lambda: taken)
    assert [list(rows) for rows in taken] == [[]]
    assert heard.given_up == []
    found = await a.by_id(record.id)
    assert found is not None
    assert (found.callback, found.owner, found.late) == (b"{}", a.instance, sql == TAKE_CANCELLED)


async def test_nobody_is_dead_because_the_servers_clock_was_set_forward(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """By an hour, or the machine that everything runs on was suspended: each lease looks old until it is renewed."""
    heard = [Heard() for _ in range(3)]
    stores = [await instance(str(number), each) for number, each in enumerate(heard)]
    await asyncio.gather(*(store.put(of(store, a_record(state=State.SUBMITTING))) for store in stores))

    async def all_beat_after(at: float) -> None:
        await eventually(lambda: min(store._leases._last_beat for store in stores) > at)  # noqa: SLF001 - no figure says so

    await all_beat_after(time.monotonic() + BRISK.lease_s)  # from now on each may take over
    for _ in range(3):
        postgresql.sql("UPDATE proxy_instances SET beat_at = beat_at - interval '1 hour'", database.rpartition("/")[2])
        await all_beat_after(time.monotonic() + BRISK.lease_s)

    assert [each.taken_over for each in heard] == [[], [], []]


async def test_an_instance_that_drains_takes_over_nothing(instance: MakeInstance) -> None:
    """It would wait for jobs that the others can wait for just as well; they take them over."""
    drains, stays = Heard(is_draining=True), Heard()
    a = await instance("a", Heard())
    await a.put(of(a, a_record(state=State.SUBMITTING)))
    await instance("b", drains)
    await instance("c", stays)

    await stop_beats(a)

    await eventually(lambda: stays.taken_over)
    assert drains.taken_over == []


async def test_an_instance_that_drained_leaves_at_once(instance: MakeInstance) -> None:
    """Nobody waits for its lease to expire."""
    a, b = await instance("a"), await instance("b")
    await eventually(lambda: reading(b, "cluster_instances") == 2)

    await a.close()

    await eventually(lambda: reading(b, "cluster_instances") == 1, timeout_s=BRISK.lease_s)


async def test_instances_that_are_gone_and_left_nothing_are_forgotten(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """And no others: jobs of an instance that is not there are taken over."""
    a, b, c = await instance("a"), await instance("b"), await instance("c")
    await b.put(of(b, a_record(state=State.SUBMITTING)))
    for store in (b, c):
        await stop_beats(store)
    ago = "UPDATE proxy_instances SET beat_at = beat_at - interval '1 hour' WHERE name <> 'a'"
    postgresql.sql(ago, database.rpartition("/")[2])

    await a._beside.run(FORGET_INSTANCES, 1_800.0)  # noqa: SLF001 - as it does at intervals

    assert [one.name for one in (await a.about()).instances] == ["a", "b"]
    await eventually(lambda: reading(a, "cluster_slowest_lease_seconds") > 3_000)
    assert reading(a, "cluster_instances") == 1


async def test_a_job_that_nobody_sees_to_ends_after_its_deadline(instance: MakeInstance) -> None:
    """Whatever the leases say; the record says what is known about its submission."""
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING, deadline_at=time.time() - 1))
    await a.put(record)

    found = await a.ended(record.id)

    assert found.failure is not None
    assert (found.failure.code, found.submitted) == (Code.INTERRUPTED, Submitted.UNKNOWN)


@pytest.mark.parametrize("wrong", ["writer", "reader"])
async def test_the_hours_of_two_machines_do_not_matter(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Written under one wall clock and read under another, a deadline is still as many seconds away."""
    a = await instance("a")
    real = time.time
    with monkeypatch.context() as patched:
        if wrong == "writer":
            patched.setattr(time, "time", lambda: real() + 3_600)
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        ended = of(a, finished())
        await a.put(ended)
    if wrong == "reader":
        monkeypatch.setattr(time, "time", lambda: real() + 3_600)

    found, found_ended = await a.by_id(record.id), await a.by_id(ended.id)

    assert found is not None
    assert 20 < found.deadline_at - time.time() < 31
    assert -1 < time.time() - found.accepted_at < 10
    assert found_ended is not None
    assert found_ended.finished_at is not None
    assert -1 < time.time() - found_ended.finished_at < 10


async def test_the_times_of_a_job_are_the_same_at_all_instances(instance: MakeInstance) -> None:
    """To the microsecond, however long a statement and its answer take; unless that is as long as clocks may differ."""
    stores = [await instance("a"), await instance("b")]

    async def are_same() -> bool:
        record = of(stores[0], a_record(state=State.SUBMITTING))
        await stores[0].put(record)
        await stores[0].put(ended := called_back(record))
        found = [each for each in [await store.by_id(record.id) for store in stores] if each is not None]
        times = [(each.accepted_at, each.deadline_at, each.finished_at) for each in (ended, *found)]
        return times[1:] == [pytest.approx(times[0], rel=0, abs=2e-6)] * 2

    await eventually(are_same)


@pytest.mark.parametrize("ahead_s", [-3_600, 0, 3_600])
async def test_lists_go_by_the_clock_that_their_jobs_are_shown_with(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Which jobs are listed, counted and compared does not depend on how the database's clock is set."""
    a = await instance("a")
    now = time.time()
    old, new = [
        of(a, finished(accepted_at=now - ago_s - 1, finished_at=now - ago_s, callback=b"{}")) for ago_s in (400, 20)
    ]
    for record in (old, new):
        await a.put(record)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    now = time.time()

    async def listed(limit: int = 10, sort: Sort = Sort.NEWEST, **members: Any) -> list[str]:
        found: list[str] = []
        after: Position | None = None
        while True:
            page = await a.jobs(JobQuery(**members), sort=sort, limit=limit, after=after)
            found += [record.id for record in page.records]
            after = page.next
            if after is None:
                return found

    assert await listed() == await listed(limit=1) == [new.id, old.id]
    assert await listed(limit=1, sort=Sort.OLDEST) == [old.id, new.id]
    assert (await listed(since=now - 200), await listed(until=now - 200)) == ([new.id], [old.id])
    assert (await a.counts(JobQuery(since=now - 200))).total == 1
    patterns = await a.patterns(JobQuery(), Grid(since=now - 600, bucket_s=300.0, buckets=2), "")
    assert (patterns.jobs, patterns.ended) == (2, [1, 1])


async def test_what_a_later_version_calls_a_failure_is_understood(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """Old and new instances run side by side."""
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    name = database.rpartition("/")[2]
    postgresql.sql(
        "UPDATE proxy_jobs SET state = 'finished', finished_at = now(), code = 'of-the-future', detail = 'x', "
        "failure_submitted = 'yes'",
        name,
    )

    found = await a.by_id(record.id)

    assert found is not None
    assert found.failure is not None
    assert (found.failure.code, found.failure.detail) == (Code.INTERNAL_ERROR, "of-the-future: x")


async def test_expired_jobs_are_deleted_a_few_at_a_time_and_free_their_keys(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """More than one batch."""
    a = await instance("a")
    name = database.rpartition("/")[2]
    records = [of(a, called_back(a_record(key=number.to_bytes(32)))) for number in range(1_200)]
    await asyncio.gather(*(a.put(record) for record in records))
    postgresql.sql("UPDATE proxy_jobs SET finished_at = now() - interval '2 hours'", name)

    assert await a.by_key((7).to_bytes(32)) is None
    again = of(a, a_record(state=State.SUBMITTING, key=(7).to_bytes(32)))
    await a.put(again)

    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:

        async def one_is_left() -> bool:
            return await (await connection.execute("SELECT count(*) FROM proxy_jobs")).fetchone() == (1,)

        await eventually(one_is_left)
    assert alike(await a.by_key((7).to_bytes(32)), again)


async def test_a_large_result_comes_back(instance: MakeInstance) -> None:
    """64 MiB: a column takes a gigabyte."""
    a = await instance("a")
    body = bytes(range(256)) * (64 * 4_096)
    record = called_back(of(a, a_record()), body)

    await a.put(record)

    found = await a.by_id(record.id)
    assert found is not None
    assert found.callback == body


async def test_what_the_database_cannot_take_is_given_up_alone(instance: MakeInstance) -> None:
    """The rest of its batch is recorded; text that no database can store is stored in an adapted form."""
    a = await instance("a")
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(3)]
    records[1] = replace(records[1], profile="a\0b")

    results = await asyncio.gather(*(a.put(record) for record in records), return_exceptions=True)

    assert [type(result) for result in results] == [type(None), StoreUnavailableError, type(None)]
    assert "cannot be recorded" in str(results[1])
    assert reading(a, "journal_records_given_up") == 1
    assert a.trouble == ""
    odd = replace(called_back(records[0]), error="a\0b \ud800", says_failed=True)
    await a.put(odd)
    found = await a.by_id(odd.id)
    assert found is not None
    assert found.error == "a\\x00b \\ud800"


async def test_the_server_notices_that_an_instances_machine_is_gone(instance: MakeInstance) -> None:
    """In ten seconds, not two hours: a batch that it did not get to its end locks the jobs of others."""
    a = await instance("a")
    for name, value in (("idle", "5"), ("interval", "2"), ("count", "3")):
        assert await a._writing.run(f"SHOW tcp_keepalives_{name}") == [(value,)]  # noqa: SLF001 - its own connection


async def test_what_is_confirmed_is_on_disk_whatever_the_server_has_as_its_default(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """`on`, unless the server's owner asks for more; only notes and notices do not wait for the disk.

    Nothing is cancelled, and nothing fails because another instance has changed the row.
    """
    name = database.rpartition("/")[2]
    postgresql.sql(f"ALTER DATABASE {name} SET statement_timeout = '10s'")
    postgresql.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    for default, ours in (("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")):
        postgresql.sql(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
        a = await instance("a")
        await a.put(of(a, a_record()))
        assert await a._writing.run("SHOW synchronous_commit") == [(ours,)]  # noqa: SLF001 - its own connection
        assert await a._beside.run("SHOW synchronous_commit") == [("off",)]  # noqa: SLF001 - the same
        assert await a._writing.run("SHOW statement_timeout") == [("0",)]  # noqa: SLF001 - the same
        assert await a._writing.run("SHOW transaction_isolation") == [("read committed",)]  # noqa: SLF001 - the same


def reading(store: PostgreSQLStore, name: str) -> float:
    """Return one of the store's figures."""
    (value,) = (reading.value for reading in store.readings() if reading.name == name)
    return value


async def stop_beats(store: PostgreSQLStore) -> None:
    """Stop a store's heartbeats; everything else goes on."""
    for task in store._leases._tasks:  # noqa: SLF001 - what a stopped process does not do
        task.cancel()
    await asyncio.sleep(0)


async def test_results_are_read_a_few_at_a_time(instance: MakeInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many may have ended while notices were lost, and reading them blocks the event loop."""
    a, b = await instance("a"), await instance("b")
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(100)]
    session, results, ended = a._reading, [0], asyncio.Event()  # noqa: SLF001 - the connection that reads
    run = session.run

    async def counted(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        rows = await run(sql, *params) if ended.is_set() or sql != ENDED else []
        results.append(sum(b"{}" in row for row in rows))
        return rows

    monkeypatch.setattr(session, "run", counted)
    await asyncio.gather(*(a.put(record) for record in records))
    ends = [asyncio.create_task(a.ended(record.id)) for record in records]
    await asyncio.gather(*(b.put(called_back(record)) for record in records))
    ended.set()
    assert all(record.callback == b"{}" for record in await asyncio.gather(*ends))
    assert all(await asyncio.gather(*(a.by_id(record.id) for record in records)))
    assert sum(results) >= 2 * len(records)
    assert max(results) <= 32


async def test_a_result_is_read_once_however_long_that_takes(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by each poll meanwhile."""
    a, b = await instance("a"), await instance("b")
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(100)]
    session, polls, read = a._reading, [0], [0]  # noqa: SLF001 - the connection that reads
    run = session.run

    async def slow(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        if sql == FIND["id"]:
            await eventually(lambda: polls[0] > 3)
        rows = await run(sql, *params)
        polls[0] += sql == ENDED and len(rows) == len(records)
        read[0] += len(rows) if sql == FIND["id"] else 0
        return rows

    monkeypatch.setattr(session, "run", slow)
    await asyncio.gather(*(a.put(record) for record in records))
    await asyncio.gather(*(b.put(called_back(record)) for record in records))
    await asyncio.gather(*(a.ended(record.id) for record in records))
    assert reading(a, "cluster_notices_lost") == len(records)
    await a.by_id(records[0].id)  # whatever was still to be read has been read
    assert read[0] == len(records) + 1


async def test_large_results_are_read_fewer_at_a_time(instance: MakeInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the connection carries in time, or nobody would get any of them."""
    a, b = await instance("a"), await instance("b")
    records = [of(a, a_record(state=State.SUBMITTING)) for _ in range(40)]
    session, body = a._reading, b"x" * 500_000  # noqa: SLF001 - the connection that reads
    run = session.run

    async def narrow(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        rows = await run(sql, *params)
        results = sum(body in row for row in rows)
        if results > 8:
            raise GoneError("the server has not answered for 2.0 s")
        await asyncio.sleep(0.05 * results)  # more would be too much
        return rows

    monkeypatch.setattr(session, "run", narrow)
    await asyncio.gather(*(a.put(record) for record in records))
    ends = [asyncio.create_task(a.ended(record.id)) for record in records]
    await asyncio.gather(*(b.put(called_back(record, body)) for record in records))
    assert {record.callback for record in await asyncio.gather(*ends)} == {body}


async def test_a_result_that_takes_longer_than_any_answer_may_is_read_piece_by_piece(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to who waits for it and found by each look-up; and the same callback can come again."""
    a, b = await instance("a"), await instance("b")
    for session in (a._reading, a._writing, a._beside):  # noqa: SLF001 - its connections
        narrow(session, monkeypatch)
    record = replace(of(a, a_record(state=State.SUBMITTING)), labels={"account": "large"})
    body = random.Random(1).randbytes(3_500_000)
    await a.put(record)
    end = asyncio.create_task(a.ended(record.id))
    await asyncio.sleep(0)

    await b.put(called_back(record, body))

    for found in (await a.by_id(record.id), await a.by_name(Called("large")), await end):
        assert found is not None
        assert found.callback == body
    with pytest.raises(TakenError) as taken:
        await a.put(called_back(record, body))
    assert taken.value.record.callback == body
    with pytest.raises(TakenError) as taken:
        await a.put(called_back(record))
    assert taken.value.record.callback == body
    assert a.trouble == ""
    assert reading(a, "journal_failures") == 0


async def test_a_job_that_expires_while_its_result_is_read_is_not_found(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a result is none."""
    a, b = await instance("a"), await instance("b")
    record = called_back(of(a, a_record()), b"x" * 3_000_000)
    await a.put(record)
    run = a._reading.run  # noqa: SLF001 - the connection that reads

    async def deleted(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        if sql == PIECE:
            await b._writing.run(DELETE, record.id)  # noqa: SLF001 - its connection
        return await run(sql, *params)

    monkeypatch.setattr(a._reading, "run", deleted)  # noqa: SLF001 - the same
    assert await a.by_id(record.id) is None


def narrow(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this connection take too long for more than a megabyte and a half."""
    run = session.run

    async def late(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        rows = await run(sql, *params)
        if sum(len(value) for row in rows for value in row if isinstance(value, bytes)) > 1_500_000:
            raise GoneError("the server has not answered for 2.0 s")
        return rows

    monkeypatch.setattr(session, "run", late)
