"""The database is killed, stopped, restarted, cut off, while instances write."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from cluster.postgresql import PostgreSQL
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.records import a_record
from tests.support.stores import Heard, of
from tests.support.waiting import eventually

MakeInstance = Callable[..., Awaitable[PostgreSQLStore]]
_FAILURE = Failed(code=Code.DEADLINE_EXCEEDED, detail="no callback came in time", submitted=Submitted.UNKNOWN)


def called_back(record: Record) -> Record:
    """The record of a job whose callback came."""
    return replace(record, state=State.FINISHED, finished_at=time.time(), callback=record.id.encode())


def reached(records: list[Record], wanted: int) -> bool:
    """Whether there are so many."""
    return len(records) >= wanted


async def restart(postgresql: PostgreSQL) -> None:
    """Kill the server and start it again, beside the loop."""
    await asyncio.to_thread(postgresql.kill)
    await asyncio.to_thread(postgresql.start)


async def test_nobody_notices_a_server_that_is_killed_and_comes_back(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """What was confirmed is there, and nothing is there twice; what was under way goes on by itself."""
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
    """New jobs are refused, ends are kept, whoever waits for an end waits on; and all of it recovers by itself."""
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


async def test_a_callback_is_tried_for_longer_than_everything_else(
    instance: MakeInstance, postgresql: PostgreSQL
) -> None:
    """Its sender may not try again."""
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
    await asyncio.sleep(2)  # both would take over now
    postgresql.pause()
    await eventually(lambda: a.trouble and b.trouble)

    postgresql.resume()

    await eventually(lambda: not a.trouble and not b.trouble)
    await asyncio.sleep(2)
    assert heard.taken_over == []
    await asyncio.gather(a.put(called_back(records[0])), b.put(called_back(records[1])))


async def test_of_several_hosts_one_that_does_not_answer_is_passed_over(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """A black hole: it accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        url = f"postgresql://postgres@127.0.0.1:{port},127.0.0.1:{postgresql.port}/{database.rpartition('/')[2]}"

        a = await instance("a", url=url)

        await a.put(of(a, a_record(state=State.SUBMITTING)))


async def test_a_connection_that_goes_silent_is_hung_up_on(
    instance: MakeInstance, postgresql: PostgreSQL, database: str
) -> None:
    """As in a network that loses everything: no reset, no answer. A new way to the server is taken."""
    async with _line_to(postgresql.port) as line:
        url = f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}"
        a = await instance("a", url=url)
        await a.put(of(a, a_record(state=State.SUBMITTING)))

        line.cut()

        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        assert await a.by_id(record.id) is not None


async def is_waiting(store: PostgreSQLStore, job_id: str) -> Record | None:
    """The record, once it says that the job server has the job."""
    record = await store.by_id(job_id)
    return record if record is not None and record.state is State.WAITING else None


class _Line:
    """Passes bytes on, until it is cut: connections that are open then stay so, and nothing comes through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, there[1]]
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.get_running_loop().create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        self.cut()
        for writer in self._writers:
            writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        sink.close()


@asynccontextmanager
async def _line_to(port: int) -> AsyncIterator[_Line]:
    line = _Line(port)
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        line.close()
        server.close()
