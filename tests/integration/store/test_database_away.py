"""The database is killed, stopped, restarted, or cut off while instances write."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace as replace_failure
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace
from psycopg import AsyncConnection

from cluster.postgresql import PostgreSQL
from proxy.store.names import Called
from proxy.store.postgresql import store
from proxy.store.postgresql.leases import Times
from proxy.store.postgresql.session import GoneError, Session
from proxy.store.postgresql.statements import LEAVE
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.line import Line
from tests.support.records import a_record
from tests.support.stores import Heard, alike, of, on_database
from tests.support.waiting import eventually

MakeInstance = Callable[..., Awaitable[PostgreSQLStore]]
#: Refuses new rows as a full disk does.
_FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'could not extend the file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON proxy_jobs FOR EACH ROW EXECUTE FUNCTION full_disk();
"""
#: How many of the server's processes work for an instance.
_PROCESSES = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'async-job-proxy%'
"""
_FAILURE = Failed(code=Code.DEADLINE_EXCEEDED, detail="no callback came in time", submitted=Submitted.UNKNOWN)


def called_back(record: Record) -> Record:
    """The record of a job whose callback came."""
    return replace(record, state=State.FINISHED, finished_at=time.time(), callback=record.id.encode())


def reached(records: list[Record], wanted: int) -> bool:
    """Return whether so many are."""
    return len(records) >= wanted


async def restart(postgresql: PostgreSQL) -> None:
    """Kill the server and start it again without blocking the event loop."""
    await asyncio.to_thread(postgresql.kill)
    await asyncio.to_thread(postgresql.start)


async def test_nobody_notices_a_server_that_is_killed_and_comes_back(
    instance: MakeInstance, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirmed records are there, nothing is there twice, and pending work goes on by itself."""
    for patience in ("health.PATIENCE_S", "store.PATIENCE_S", "store._CALLBACK_PATIENCE_S"):
        monkeypatch.setattr(f"proxy.store.postgresql.{patience}", 60.0)  # on a busy machine a restart takes seconds
    stores = [await instance("a"), await instance("b")]
    stop = asyncio.Event()
    confirmed: list[Record] = []
    refused: list[BaseException] = []

    async def write(store: PostgreSQLStore) -> None:
        while not stop.is_set():
            record = of(store, a_record(state=State.SUBMITTING))
            try:
                await store.put(record)
                await store.put(called_back(record))
            except (StoreUnavailableError, TakenError) as exc:
                refused.append(exc)
                await asyncio.sleep(0.01)  # a store in trouble refuses at once, and nothing else would run
            else:
                confirmed.append(record)

    writers = [asyncio.create_task(write(store)) for store in stores for _ in range(8)]
    for wanted in (50, 100, 150):
        await eventually(partial(reached, confirmed, wanted))
        await restart(postgresql)
    await eventually(partial(reached, confirmed, len(confirmed) + 50))
    stop.set()
    await asyncio.gather(*writers)

    assert refused == []
    assert not any(store.trouble for store in stores)
    for record in confirmed:
        found = await stores[0].by_id(record.id)
        assert found is not None
        assert found.callback == record.id.encode()


async def test_what_happens_while_it_is_away_is_told_and_made_up_for(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """New jobs are refused, ends are kept, whoever waits for an end keeps waiting; all of it recovers by itself."""
    a = await instance("a")
    record, other = of(a, a_record(state=State.SUBMITTING)), of(a, a_record(state=State.SUBMITTING))
    await asyncio.gather(a.put(record), a.put(other))
    waiting = asyncio.create_task(a.ended(record.id))
    await asyncio.to_thread(postgresql.kill)

    with pytest.raises(StoreUnavailableError):
        await a.put(of(a, a_record(state=State.SUBMITTING)))
    assert "the database cannot be used" in await eventually(lambda: a.trouble)
    with pytest.raises(StoreUnavailableError):
        await a.by_key(b"k" * 32)
    ended = replace(record, state=State.FINISHED, finished_at=time.time(), failure=_FAILURE)
    with pytest.raises(StoreUnavailableError):
        await a.put(ended, keep=True)
    a.note(replace(other, state=State.WAITING))
    kept = await a.by_id(record.id)
    assert kept == ended

    await asyncio.to_thread(postgresql.start)

    assert (await waiting).failure == _FAILURE
    await eventually(lambda: not a.trouble)
    found = await eventually(lambda: is_waiting(a, other.id))
    assert found.submitted is Submitted.YES


async def test_what_was_noted_of_the_jobs_of_others_is_made_up_for(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """A callback that came here proves that the job server has the job: `no` would let its client send it again."""
    a, b = await instance("a"), await instance("b")
    job, failed = of(a, a_record(state=State.SUBMITTING)), of(a, a_record(state=State.SUBMITTING))
    failure = replace_failure(_FAILURE, submitted=Submitted.NO)
    ended = replace(failed, state=State.FINISHED, finished_at=time.time(), failure=failure)
    await asyncio.gather(a.put(job), a.put(failed))
    await a.put(ended)
    await asyncio.to_thread(postgresql.kill)
    b.note(job.proven())
    b.note(ended.proven())
    await eventually(lambda: figure(b, "journal_backlog") == 2)

    await asyncio.to_thread(postgresql.start)

    for record, state in ((job, State.WAITING), (ended, State.FINISHED)):
        found = await eventually(partial(is_submitted, a, record.id))
        assert found.state is state


async def test_an_end_is_tried_by_a_store_that_only_thinks_the_database_is_away(instance: MakeInstance) -> None:
    """Like an instance that was stopped during a question; it is told what is on record."""
    a, b = await instance("a"), await instance("b")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    await b.put(called_back(record))
    vars(vars(a)["_reading"])["busy_since"] = time.monotonic() - 60  # as if it had just woken up
    assert a.trouble

    with pytest.raises(TakenError) as raised:
        await a.put(replace(record, state=State.FINISHED, finished_at=time.time(), failure=_FAILURE), keep=True)

    assert raised.value.record.callback == called_back(record).callback


async def test_what_is_recorded_takes_the_place_of_what_waited_to_be(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up finds it at once."""
    monkeypatch.setattr(store, "_LOOK_S", 60.0)
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    ended = replace(record, state=State.FINISHED, finished_at=time.time(), failure=_FAILURE)
    vars(a)["_backlog"].add(ended, keep=True)  # as after an outage

    await a.put(replace(called_back(record), failure=_FAILURE))

    found = await a.by_id(record.id)
    assert found is not None
    assert found.callback is not None
    assert figure(a, "journal_backlog") == 0


async def test_an_end_that_waits_to_be_recorded_is_not_lost_with_a_callback_that_cannot_be(
    instance: MakeInstance, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client was told the end; the sender of the callback is told that it was not stored, but may not retry."""
    monkeypatch.setattr(store, "_CALLBACK_PATIENCE_S", 0.0)
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    ended = replace(record, state=State.FINISHED, finished_at=time.time(), failure=_FAILURE)
    await asyncio.to_thread(postgresql.kill)
    with pytest.raises(StoreUnavailableError):
        await a.put(ended, keep=True)
    assert await a.by_name(Called(record.id)) == ended
    with pytest.raises(StoreUnavailableError):
        await a.put(replace(called_back(record), failure=_FAILURE))

    await asyncio.to_thread(postgresql.start)

    await eventually(lambda: not figure(a, "journal_backlog") and not figure(a, "journal_queue"))
    found = await a.by_id(record.id)
    assert found is not None
    assert (found.failure, found.callback) == (_FAILURE, called_back(record).callback)


async def test_two_results_of_a_job_are_counted_on_record(
    instance: MakeInstance, postgresql: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One went to the client of an instance that was cut off; another instance recorded the other."""
    monkeypatch.setattr(store, "_CALLBACK_PATIENCE_S", 0.0)
    async with Line(postgresql.port) as line:
        a = await instance("a", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        b = await instance("b")
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        line.cut()
        with pytest.raises(StoreUnavailableError):
            await a.put(called_back(record), keep=True)
        await b.put(replace(called_back(record), callback=b"other", trail="[]"))

        line.mend()

        found = await eventually(lambda: has_duplicate(b, record.id))
        assert (found.callback, found.duplicates, found.trail) == (b"other", 1, "[]")


@pytest.mark.parametrize("kept", ["the same result", "a failure"])
async def test_what_waits_to_be_recorded_is_no_second_result(
    instance: MakeInstance, postgresql: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """The sender of a result was told that it was not stored, and sent it to another instance."""
    monkeypatch.setattr(store, "_CALLBACK_PATIENCE_S", 0.0)
    async with Line(postgresql.port) as line:
        a = await instance("a", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        b = await instance("b")
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        line.cut()
        ended = called_back(record)
        if kept == "a failure":
            ended = replace(ended, callback=None, failure=_FAILURE)
        with pytest.raises(StoreUnavailableError):
            await a.put(ended, keep=True)
        await b.put(called_back(record))

        line.mend()

        await eventually(lambda: not figure(a, "journal_backlog") and not figure(a, "journal_queue"))
        found = await a.by_name(Called(record.id))  # notes are recorded first
        assert found is not None
        assert (found.callback, found.duplicates) == (called_back(record).callback, 0)


async def test_what_was_noted_is_not_lost_with_a_callback_that_cannot_be_recorded(
    instance: MakeInstance, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender of the callback may not retry, and the note was all that said that another one was refused."""
    monkeypatch.setattr(store, "_CALLBACK_PATIENCE_S", 0.0)
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    await asyncio.to_thread(postgresql.kill)
    noted = replace(record, refused=1, refusal="not JSON")
    a.note(noted)
    with pytest.raises(StoreUnavailableError):
        await a.put(called_back(noted))

    await asyncio.to_thread(postgresql.start)

    await eventually(lambda: not figure(a, "journal_backlog") and not figure(a, "journal_queue"))
    found = await a.by_id(record.id)
    assert found is not None
    assert (found.refused, found.refusal) == (1, "not JSON")


async def test_what_waits_to_be_recorded_is_tried_once_more_at_the_end(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may have come back since; nobody else knows how these jobs ended."""
    monkeypatch.setattr(store, "_LOOK_S", 60.0)
    a, b = await instance("a"), await instance("b")
    own, others = of(a, a_record(state=State.SUBMITTING)), of(b, a_record(state=State.SUBMITTING))
    await asyncio.gather(a.put(own), b.put(others))
    ended = replace(own, state=State.FINISHED, finished_at=time.time(), failure=_FAILURE)
    for record in (ended, others.proven()):
        vars(a)["_backlog"].add(record, keep=True)  # as after an outage

    await a.close()

    assert alike(await b.by_id(own.id), ended)
    assert await is_waiting(b, others.id)


async def test_a_callback_is_tried_for_longer_than_everything_else(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """Its sender may not retry."""
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    await asyncio.to_thread(postgresql.kill)
    stored = a.put(called_back(record))
    with pytest.raises(StoreUnavailableError):
        await a.put(of(a, a_record(state=State.SUBMITTING)))
    assert not stored.done()

    await asyncio.to_thread(postgresql.start)

    await stored


async def test_a_server_that_is_stopped_is_noticed_and_nobody_is_dead_for_it(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """For longer than a lease; afterwards each instance still has its jobs."""
    heard = Heard()
    a, b = await instance("a", heard), await instance("b", heard)
    records = [of(store, a_record(state=State.SUBMITTING)) for store in (a, b)]
    await asyncio.gather(a.put(records[0]), b.put(records[1]))
    await asyncio.sleep(2)  # otherwise both would take over now
    postgresql.pause()
    await eventually(lambda: a.trouble and b.trouble)

    postgresql.resume()

    await eventually(lambda: not a.trouble and not b.trouble)
    await asyncio.sleep(2)
    assert heard.taken_over == []
    await asyncio.gather(a.put(called_back(records[0])), b.put(called_back(records[1])))


async def test_a_database_that_takes_no_new_jobs_is_noticed_though_it_answers(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """As with a full disk: heartbeats find room in the present pages, and new rows do not."""
    name = database.rpartition("/")[2]
    a = await instance("a")
    postgresql.sql(_FULL, name)
    with pytest.raises(StoreUnavailableError):
        await a.put(of(a, a_record(state=State.SUBMITTING)))
    await eventually(lambda: a.trouble)
    assert await stays_troubled(a, 5)

    postgresql.sql("DROP TRIGGER full_disk ON proxy_jobs", name)
    await eventually(lambda: not a.trouble)
    await a.put(of(a, a_record(state=State.SUBMITTING)))
    assert postgresql.sql("SELECT count(*) FROM proxy_jobs", name) == "1"


async def test_a_locked_table_is_noticed_and_costs_the_server_no_more_processes(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """An index is being made, or the table rewritten: each retry must not leave another process waiting there."""
    name = database.rpartition("/")[2]
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    await a.by_name(Called(record.id))  # the fourth connection
    processes = postgresql.sql(_PROCESSES, name)
    async with await AsyncConnection.connect(database) as other:
        await other.execute("LOCK TABLE proxy_jobs IN SHARE MODE")
        a.put(called_back(record), keep=True)
        await eventually(lambda: a.trouble)
        assert await stays_troubled(a, 3)
        assert postgresql.sql(_PROCESSES, name) == processes

    await eventually(lambda: not a.trouble)
    await eventually(lambda: postgresql.sql("SELECT count(*) FROM proxy_jobs WHERE callback IS NOT NULL", name) == "1")


async def test_an_instance_that_loses_its_lease_takes_no_jobs_though_it_could_record_them(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has no room for all of its connections; other instances would take over each of its jobs."""
    a = await instance("a")
    reading = a._reading  # noqa: SLF001 - the connection of the heartbeats

    async def refused() -> None:
        raise GoneError("too many connections")

    async def is_troubled_or_records() -> str:
        trouble = a.trouble
        if not trouble:
            await a.put(of(a, a_record(state=State.SUBMITTING)))
        return trouble

    with monkeypatch.context() as patched:
        patched.setattr(reading, "connect", refused)
        reading.hang_up()
        await eventually(is_troubled_or_records)

    await eventually(lambda: not a.trouble)
    await a.put(of(a, a_record(state=State.SUBMITTING)))


async def test_an_instance_that_has_no_connection_to_record_jobs_takes_none_though_it_keeps_its_lease(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has room for some of its connections only; each job would wait for three seconds in vain."""
    a = await instance("a")
    writing = a._writing  # noqa: SLF001 - the connection that records jobs

    async def refused() -> None:
        raise GoneError("too many connections")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "connect", refused)
        writing.hang_up()
        with pytest.raises(StoreUnavailableError):
            await a.put(of(a, a_record(state=State.SUBMITTING)))
        await eventually(lambda: a.trouble)
        assert await stays_troubled(a, 5)

    await eventually(lambda: not a.trouble)
    await a.put(of(a, a_record(state=State.SUBMITTING)))


async def test_an_instance_keeps_its_lease_though_it_takes_too_long_to_see_to_the_jobs_of_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of open jobs has a million that have ended, because somebody's transaction has stayed open since."""
    slow = "SELECT FROM (SELECT pg_sleep(3)::text AS slept OFFSET 0) AS s WHERE slept IS NULL"
    monkeypatch.setattr("proxy.store.postgresql.leases.OVERDUE", slow)
    a = await on_database(database, times=Times(lease_s=4.0, beat_s=1.2))
    beats, troubles = set(), set()

    def goes_on() -> bool:
        beats.add(a._leases._last_beat)  # noqa: SLF001 - no figure counts them
        troubles.add(a.trouble)
        return len(beats) > 4 and figure(a, "journal_failures") > 0

    await eventually(goes_on)
    await a.close()
    assert troubles == {""}


async def test_a_job_that_is_locked_delays_the_others_and_no_more(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """Somebody has changed its row and not committed yet; it is in each batch, and written in the end."""
    a = await instance("a")
    record = of(a, a_record(state=State.SUBMITTING))
    await a.put(record)
    async with await AsyncConnection.connect(database) as other:
        await other.execute("UPDATE proxy_jobs SET error = ''")
        a.put(called_back(record), keep=True)
        for _ in range(4):
            await asyncio.gather(*(a.put(of(a, a_record(state=State.SUBMITTING))) for _ in range(10)))

    name = database.rpartition("/")[2]
    await eventually(lambda: postgresql.sql("SELECT count(*) FROM proxy_jobs WHERE callback IS NOT NULL", name) == "1")
    assert postgresql.sql("SELECT count(*) FROM proxy_jobs", name) == "41"


async def test_of_several_hosts_one_that_does_not_answer_is_passed_over(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """It accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        url = f"postgresql://postgres@127.0.0.1:{port},127.0.0.1:{postgresql.port}/{database.rpartition('/')[2]}"

        a = await instance("a", url=url)

        await a.put(of(a, a_record(state=State.SUBMITTING)))


async def test_a_database_that_does_not_answer_does_not_hold_up_the_end(
    instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left running, though nobody was told that this instance stops."""
    a = await instance("a")
    run = a._reading.run  # noqa: SLF001 - the connection of the lease

    async def silent(sql: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        if sql == LEAVE:
            await asyncio.Event().wait()
        return await run(sql, *params)

    monkeypatch.setattr(a._reading, "run", silent)  # noqa: SLF001 - the same
    await a.close()

    ours = [*a._tasks, *a._leases._tasks]  # noqa: SLF001 - all that it does in the background
    await eventually(lambda: all(task.done() for task in ours))


async def test_a_connection_that_goes_silent_is_hung_up_on(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """As in a network that loses everything: no reset, no answer. A new connection is made."""
    async with Line(postgresql.port) as line:
        a = await instance("a", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        failures = figure(a, "journal_failures")

        line.stall()

        stored = a.put(called_back(record))
        await eventually(lambda: figure(a, "journal_failures") > failures)
        assert not stored.done()
        line.mend()
        await stored
        assert (await a.by_id(record.id)) is not None


async def test_a_large_result_is_recorded_over_a_slow_line(
    instance: MakeInstance, postgresql: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a server that hangs may take to answer, and than its job server waits: it is sent once."""
    monkeypatch.setattr(store, "_CALLBACK_PATIENCE_S", 1.0)
    async with Line(postgresql.port) as line:
        a = await instance("a", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        line.slow_down(500_000)

        result = replace(called_back(record), callback=bytes(2_500_000))
        with pytest.raises(StoreUnavailableError):
            await a.put(result, keep=True)

        await eventually(lambda: not figure(a, "journal_backlog") and not figure(a, "journal_queue"))
        assert (figure(a, "journal_failures"), figure(a, "journal_commits")) == (0, 2)
        line.mend()
        assert alike(await a.by_id(record.id), result)


async def test_a_large_result_is_read_over_a_slow_line(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """By the instance where its client waits: in pieces, none of which takes longer than a server may take."""
    a = await instance("a")
    async with Line(postgresql.port) as line:
        b = await instance("b", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        record = of(b, a_record(state=State.SUBMITTING))
        await b.put(record)
        line.slow_down(250_000)

        ended = asyncio.create_task(b.ended(record.id))
        await asyncio.sleep(0)
        await a.put(replace(called_back(record), callback=bytes(700_000)))

        assert (await ended).callback == bytes(700_000)
        assert figure(b, "journal_failures") == 0


async def test_a_slow_answer_does_not_keep_heartbeats_waiting(postgresql: PostgreSQL, database: str) -> None:
    """It is given up where they use the same connection, although it goes on arriving."""
    async with Line(postgresql.port) as line:
        session = Session(
            f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}", may_take_long=False
        )
        await session.run("SELECT 1::int")
        line.slow_down(200_000)
        with pytest.raises(GoneError, match="has not answered for"):
            await session.run("SELECT repeat('x', 10000000)::text", patience_s=1.0)
        session.close()


async def test_a_line_that_is_reset_is_made_again_at_once(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """Pending work is retried, and nobody notices."""
    async with Line(postgresql.port) as line:
        a = await instance("a", url=f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        for _ in range(5):
            puts = [a.put(of(a, a_record(state=State.SUBMITTING))) for _ in range(20)]
            line.cut()
            line.mend()
            await asyncio.gather(*puts)
        assert a.trouble == ""


async def is_waiting(store: PostgreSQLStore, job_id: str) -> Record | None:
    """Return the record once it says that the job server has the job."""
    record = await store.by_id(job_id)
    return record if record is not None and record.state is State.WAITING else None


async def has_duplicate(store: PostgreSQLStore, job_id: str) -> Record | None:
    """Return the job's record if it says that there was a second callback."""
    found = await store.by_id(job_id)
    return found if found is not None and found.duplicates else None


async def stays_troubled(store: PostgreSQLStore, failures: int) -> bool:
    """Return whether the store is in trouble all the time until so many more statements have failed."""
    until, told = figure(store, "journal_failures") + failures, []

    def is_over() -> bool:
        told.append(bool(store.trouble))
        return figure(store, "journal_failures") >= until

    await eventually(is_over)
    return all(told)


async def is_submitted(store: PostgreSQLStore, job_id: str) -> Record | None:
    """Return the record once it says that the job was submitted."""
    try:
        record = await store.by_id(job_id)
    except StoreUnavailableError:
        return None
    return record if record is not None and record.submitted is Submitted.YES else None


def figure(store: PostgreSQLStore, name: str) -> float:
    """Return one of the store's figures."""
    (value,) = (reading.value for reading in store.readings() if reading.name == name)
    return value
