"""What goes over one connection, with a real server at its other end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
import uvloop

import proxy.store.postgresql.session as session_module
from cluster.postgresql import PostgreSQL
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from tests.support.line import Line
from tests.support.waiting import IN_VAIN_S, eventually

_MUCH = 5_000_000


@pytest.fixture
async def session(database: str) -> AsyncIterator[Session]:
    """A session with an empty table."""
    one = Session(database)
    await one.script("CREATE TABLE t (id bigint PRIMARY KEY, body bytea)")
    yield one
    one.close()


async def test_all_statements_of_a_call_are_one_transaction(session: Session) -> None:
    """A statement that fails undoes those before it, and the connection stays usable."""
    insert = "INSERT INTO t (id) VALUES ($1)"
    with pytest.raises(UnfitError, match="duplicate key"):
        await session.run_all([(insert, (1,)), (insert, (2,)), (insert, (1,)), (insert, (3,))])

    assert await session.run("SELECT count(*) FROM t") == [(0,)]
    answers = await session.run_all([(insert, (1,)), ("SELECT id FROM t WHERE id >= $1", (0,))])
    assert answers == [(), [(1,)]]


async def test_what_is_undone_at_the_commit_is_not_said_to_be_done(session: Session) -> None:
    """The statement was answered before; and the connection is not used for other statements in the meantime."""
    await session.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not at the commit'; END $$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        "WHEN (NEW.id = 13) EXECUTE FUNCTION refuse()"
    )
    insert = "INSERT INTO t (id) VALUES ($1) RETURNING id"
    for number in (12, 13, 14):
        if number == 13:
            with pytest.raises(GoneError, match="not at the commit"):
                await session.run(insert, number)
        else:
            assert await session.run(insert, number) == [(number,)]
    assert await session.run("SELECT id FROM t ORDER BY id") == [(12,), (14,)]


async def test_what_a_server_that_ends_has_confirmed_is_there(session: Session, database: str) -> None:
    """Its processes are terminated again and again, at any moment of a commit."""
    done: list[tuple[int, ...]] = []
    with psycopg.connect(database, autocommit=True) as other:
        for number in range(300):
            inserting = asyncio.create_task(session.run("INSERT INTO t (id) VALUES ($1) RETURNING id", number))
            await asyncio.sleep(0)
            if number % 3 == 0:
                other.execute("SELECT pg_terminate_backend(%s)", [session.backend_pid])
            with contextlib.suppress(GoneError):
                done += await inserting
        there = other.execute("SELECT id FROM t").fetchall()
    assert len(done) >= 100
    assert set(done) <= set(there)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_that_is_reset_after_the_servers_last_words_is_lost_at_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop], postgresql: PostgreSQL, database: str
) -> None:
    """As when a server is restarted that has not read a statement yet: uvloop reports both as one, and only once."""

    async def ask(listener: socket.socket, relay: Future[None], together: threading.Barrier) -> None:
        port = listener.getsockname()[1]
        session = Session(f"postgresql://postgres@127.0.0.1:{port}/{database.rpartition('/')[2]}")
        await session.run("SELECT 1")
        together.wait()
        asking = asyncio.create_task(session.run("SELECT 1", patience_s=10 * IN_VAIN_S))
        await asyncio.sleep(0)
        together.wait()
        relay.result()  # nothing is read meanwhile
        with pytest.raises(GoneError):
            await asyncio.wait_for(asking, IN_VAIN_S)
        session.close()

    together = threading.Barrier(2, timeout=IN_VAIN_S)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        relay = threads.submit(_relay, listener, postgresql.port, together)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(ask(listener, relay, together))


def _relay(listener: socket.socket, port: int, together: threading.Barrier) -> None:
    """Pass on all of a connection until the test waits; then, with a statement unread, end it as a server does."""
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        while not together.n_waiting:
            for one in select.select([client, server], [], [], 0.01)[0]:
                (server if one is client else client).sendall(one.recv(65_536))
        together.wait()
        together.wait()
        client.sendall(b"E\0\0\0\x2fSFATAL\0VFATAL\0C57P01\0Mthe server is going\0\0")


async def test_a_connection_that_was_reset_without_the_loops_notice_is_hung_up_on(
    postgresql: PostgreSQL, database: str
) -> None:
    """It is not shut down, as it is not connected any more; who waits for an answer goes on."""
    async with Line(postgresql.port) as line:
        session = Session(f"postgresql://postgres@127.0.0.1:{line.port}/{database.rpartition('/')[2]}")
        wire = await session.connect()
        line.stall()
        asking = asyncio.create_task(session.run("SELECT 1", patience_s=0.1))
        await asyncio.sleep(0)
        asyncio.get_running_loop().remove_reader(wire.fileno)
        line.cut()
        with pytest.raises(GoneError):
            await asyncio.wait_for(asking, IN_VAIN_S)
        session.close()


async def test_a_notice_that_comes_with_an_answer_is_heard(session: Session, database: str) -> None:
    """Even if nothing else is received after it."""
    heard: list[str] = []
    wire = await session.connect()
    wire.on_notice = heard.append
    listening = asyncio.create_task(wire.script("LISTEN here"))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - nothing is read meanwhile
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("NOTIFY here, 'first'")
    time.sleep(0.2)  # noqa: ASYNC251 - as above
    await listening
    await eventually(lambda: heard == ["first"])


async def test_a_connection_that_cannot_be_set_up_is_not_used(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commits might not wait for the disk."""
    monkeypatch.setattr(session_module, "_SET_UP", session_module._SET_UP + "SET no_such_setting = 1; ")  # noqa: SLF001
    session = Session(database)
    for _ in range(2):
        with pytest.raises(GoneError, match="no_such_setting"):
            await session.run("SELECT 1")
    assert not session.is_connected
    session.close()


async def test_a_statement_that_cannot_be_prepared_is_tried_again_the_next_time(session: Session) -> None:
    """The server refuses it and has to be asked again: the table may exist by then."""
    for _ in range(2):
        with pytest.raises(GoneError, match="does not exist"):
            await session.run("SELECT id FROM later")
    await session.script("CREATE TABLE later (id bigint)")
    assert await session.run("SELECT id FROM later") == ()


async def test_every_kind_of_value_goes_there_and_back(session: Session) -> None:
    """As the statements of the store have them."""
    sql = "SELECT $1::text, $2::bytea, $3::float8, $4::int8, $5::bool, $6::bool, $7::text, $8::text[], $9::bytea[]"
    values = ("ä", b"\0\xff", 0.25, -(2**40), True, False, None, ["a", "ö"], [b"", b"b"])

    assert await session.run(sql, *values) == [
        ("ä", b"\0\xff", 0.25, -(2**40), True, False, None, ["a", "ö"], [b"", b"b"])
    ]


async def test_a_number_is_what_the_statement_takes_it_for(session: Session) -> None:
    """Even a whole number where fractions are allowed."""
    for value in (2, 2.5):
        assert await session.run("SELECT make_interval(secs => $1) * 2 > interval '3 s'", value) == [(True,)]


async def test_what_cannot_be_sent_is_refused_and_the_rest_goes_on(session: Session) -> None:
    """Half of a character, a number that is too large, a NUL in a text."""
    for value, kind in (("\ud800", "text"), (2**70, "int8"), ("\0", "text")):
        with pytest.raises(UnfitError):
            await session.run(f"SELECT $1::{kind}", value)
    assert await session.run("SELECT $1::text", "a") == [("a",)]


async def test_megabytes_go_there_and_back_while_the_loop_does_other_things(session: Session) -> None:
    """More than a socket takes at once, in both directions and several times over."""
    body = bytes(_MUCH)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    insert = "INSERT INTO t (id, body) VALUES ($1, $2) RETURNING body"
    answers = await session.run_all([(insert, (number, body)) for number in range(3)], size_bytes=3 * _MUCH)
    counting.cancel()

    assert [rows[0][0] == body for rows in answers] == [True] * 3
    assert turns > 10


async def test_a_connection_that_is_lost_while_nobody_asks_is_noticed(session: Session, postgresql: PostgreSQL) -> None:
    """And the next question uses a new one."""
    ((pid,),) = await session.run("SELECT pg_backend_pid()::int8")
    postgresql.sql(f"SELECT pg_terminate_backend({pid})")

    await eventually(lambda: not session.is_connected)

    ((other,),) = await session.run("SELECT pg_backend_pid()::int8")
    assert other != pid


async def test_notices_come_while_nobody_asks(session: Session, database: str) -> None:
    """The listener gets them."""
    heard: list[str] = []
    wire = await session.connect()
    wire.on_notice = heard.append
    await wire.script("LISTEN here")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
        await other.execute("NOTIFY here, 'ä'")
        await eventually(lambda: heard == ["ä"])


async def test_whoever_sends_much_is_told_when_the_connection_breaks(database: str, postgresql: PostgreSQL) -> None:
    """While a part of it waits to be sent."""
    async with Line(postgresql.port) as line:
        session = Session(database.replace(str(postgresql.port), str(line.port)))
        await session.run("SELECT 1")
        line.stall()
        sending = asyncio.create_task(session.run("SELECT octet_length($1)", bytes(50_000_000)))
        await eventually(lambda: session.busy_since)
        await asyncio.sleep(0)

        session.hang_up()

        with pytest.raises(GoneError):
            await sending
        session.close()


@pytest.mark.parametrize("may_take_long", [True, False])
async def test_an_answer_that_takes_long_over_a_slow_line_is_waited_for(
    database: str, postgresql: PostgreSQL, *, may_take_long: bool
) -> None:
    """Except over the connection of the heartbeats: others would take this instance for dead."""
    async with Line(postgresql.port) as line:
        session = Session(database.replace(str(postgresql.port), str(line.port)), may_take_long=may_take_long)
        await session.connect()
        line.slow_down(500_000)
        asked = session.run("SELECT repeat('x', 1000000)", patience_s=0.5)
        if may_take_long:
            ((text,),) = await asked
            assert len(text) == 1_000_000
        else:
            with pytest.raises(GoneError):
                await asked
        session.close()


async def test_whoever_waits_for_an_answer_is_told_when_the_session_ends(session: Session) -> None:
    """The statement may have been executed."""
    asked = asyncio.create_task(session.run("SELECT pg_sleep(60)"))
    await eventually(lambda: session.busy_since)

    session.close()

    with pytest.raises(GoneError):
        await asked
