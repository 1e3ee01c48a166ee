"""An unsuitable database is refused in one line that names the cause and the remedy, and no secret."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from psycopg import AsyncConnection

from cluster.postgresql import PostgreSQL
from proxy.run.findings import Verdict
from proxy.run.journal_check import journal_findings
from proxy.store.postgresql import opening, schema
from proxy.store.postgresql.leases import Leases
from proxy.store.postgresql.opening import open_store, probe, room
from proxy.store.postgresql.session import GoneError
from shared.errors import SettingsError
from shared.settings import load
from tests.support.postgresql import own_server
from tests.support.records import a_record
from tests.support.stores import of, on_database
from tests.support.waiting import eventually

#: The version of a later proxy's tables.
NEXT = schema.VERSION + 1


async def refusal(url: str) -> str:
    """Return the line that a start and a check say; both have to be the same."""
    said = []
    for attempt in (probe(url), open_store(url, ttl_s=60, name="a", warn=lambda _: None)):
        with pytest.raises(SettingsError) as error:
            await attempt
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


async def test_a_check_leaves_an_empty_database_as_it_is(database: str) -> None:
    """And says that there are no tables."""
    found = await probe(database)

    assert (found.tables, found.doubt) == (None, "")
    assert (await probe(database)).tables is None


async def test_nobody_is_there(postgresql: PostgreSQL, database: str) -> None:
    """The address is named, without its password."""
    postgresql.kill()
    line = await refusal(database.replace("postgres@", "postgres:geheim@"))
    assert line.startswith(f"JOURNAL: cannot use {database}: ")
    assert "Connection refused" in line
    assert "geheim" not in line


async def test_a_wrong_password_is_named_as_such(database: str) -> None:
    """The server asks for a password and refuses it; the password is not shown."""
    with own_server() as server:
        server.sql("CREATE ROLE u LOGIN PASSWORD 'right'")
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all u 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n", encoding="ascii")
        server.sql("SELECT pg_reload_conf()")
        url = server.url(user="u")
        line = await refusal(url.replace("u@", "u:gehe%69m@"))
        assert "password authentication failed" in line
        assert "PGPASSFILE" in line
        assert "gehe" not in line
        line = await refusal(url + "?password=geheim")
        assert "password authentication failed" in line
        assert "geheim" not in line
        assert "no password supplied" in await refusal(url)
        server.sql("GRANT CREATE ON SCHEMA public TO u")
        store = await on_database(url.replace("u@", "u:right@"))
        await store.close()


async def test_rights_that_lack_are_named_with_what_grants_them(postgresql: PostgreSQL, database: str) -> None:
    """The rights to make the tables, and those to use them."""
    name = database.rpartition("/")[2]
    postgresql.sql(f"CREATE ROLE r_{name} LOGIN")
    postgresql.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)  # as is the default since version 15
    url = postgresql.url(name, f"r_{name}")
    for attempt in (probe(url), open_store(url, ttl_s=60, name="a", warn=lambda _: None)):
        with pytest.raises(SettingsError, match="GRANT CREATE, USAGE ON SCHEMA public"):
            await attempt
    await (await on_database(database)).close()
    assert "permission denied for table proxy_" in await refusal(url)


async def test_a_server_that_would_lose_jobs_is_refused() -> None:
    """The server's own setting says so."""
    with own_server(configuration="fsync = off") as server:
        line = await refusal(server.url())
    assert line == (
        f"JOURNAL: {server.url()} has fsync=off and would lose jobs in a power failure; set fsync=on in postgresql.conf"
    )


async def test_a_replica_is_refused_and_one_that_is_not_synchronous_is_a_doubt() -> None:
    """A failover to it may lose the newest jobs."""
    with own_server() as server:
        (server.data / "standby.signal").touch()
        server.stop()
        (server.data / "standby.signal").chmod(0o644)
        server.start()
        line = await refusal(server.url())
        assert "read-only" in line
        assert "name the primary, or several hosts" in line


async def test_a_server_that_is_too_old_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the required version."""
    monkeypatch.setattr(opening, "OLDEST_SERVER", 99)
    assert "99 or newer is needed; upgrade the server" in await refusal(database)


async def test_tables_of_a_later_version_are_left_alone(postgresql: PostgreSQL, database: str) -> None:
    """If they say that this version would do harm; otherwise it works with them."""
    name = database.rpartition("/")[2]
    await (await on_database(database)).close()
    postgresql.sql("UPDATE proxy_meta SET version = 7", name)
    store = await on_database(database)
    await store.put(of(store, a_record()))
    await store.close()
    assert postgresql.sql("SELECT version FROM proxy_meta", name) == "7"
    postgresql.sql("UPDATE proxy_meta SET oldest_writer = 7", name)
    assert f"(version 7, this one knows {schema.VERSION} and may not write to them)" in await refusal(database)


async def test_tables_of_version_1_are_brought_up_to_date(postgresql: PostgreSQL, database: str) -> None:
    """New columns have a default, which older records then have; an instance of version 1 still works with them."""
    name = database.rpartition("/")[2]
    old = await on_database(database, name="old")
    record = of(old, a_record())
    await old.put(record)
    await old.close()
    for column in ("instance", "worker_end", "cancelled_by", "trail", "sent"):
        postgresql.sql(f"ALTER TABLE proxy_jobs DROP COLUMN {column}", name)
    postgresql.sql("DROP INDEX proxy_jobs_failed; ALTER TABLE proxy_meta DROP COLUMN lost_before", name)
    postgresql.sql("UPDATE proxy_meta SET version = 1", name)

    store = await on_database(database)
    found = await store.by_id(record.id)
    assert found is not None
    assert (found.instance, found.worker_end, found.trail, found.sent) == ("", "", "", None)
    assert postgresql.sql("SELECT version, oldest_writer FROM proxy_meta", name) == f"{schema.VERSION}|1"
    assert not store.may_have_lost()
    await store.close()


async def test_a_database_that_cannot_be_used_any_more_ends_the_start_with_one_line(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked at."""

    async def gone(*_: object) -> None:
        raise GoneError("the server closed the connection")

    monkeypatch.setattr(Leases, "begin", gone)
    with pytest.raises(SettingsError, match=r"cannot use .*: the server closed the connection"):
        await on_database(database)


def _add_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let instances that start from now on be of a version whose tables have one more column."""
    monkeypatch.setattr(schema, "VERSION", NEXT)
    step = "ALTER TABLE proxy_jobs ADD COLUMN IF NOT EXISTS colour text NOT NULL DEFAULT 'blue';"
    monkeypatch.setattr(schema, "_UPGRADES", {NEXT - 1: step})


async def test_tables_are_brought_up_to_date_while_an_old_instance_goes_on(
    postgresql: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more column, added by one of two instances that start at once; the old one reads and writes as before."""
    old = await on_database(database, name="old")
    _add_a_column(monkeypatch)

    new = await asyncio.gather(*(on_database(database, name=name) for name in ("new", "newer")))

    records = [of(store, a_record()) for store in (old, *new)]
    await asyncio.gather(*(store.put(record) for store, record in zip((old, *new), records, strict=True)))
    name = database.rpartition("/")[2]
    assert postgresql.sql("SELECT version, oldest_writer FROM proxy_meta", name) == f"{NEXT}|1"
    assert postgresql.sql("SELECT count(*) FROM proxy_jobs WHERE colour = 'blue'", name) == "3"
    assert await old.by_id(records[1].id) is not None
    for store in (old, *new):
        await store.close()


async def test_tables_that_a_dump_reads_are_brought_up_to_date_later_and_nobody_waits(
    postgresql: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all that the running instances do would wait behind the change, and the change for the dump."""
    old = await on_database(database, name="old")
    _add_a_column(monkeypatch)
    async with await AsyncConnection.connect(database) as dump:
        await dump.execute("SELECT FROM proxy_jobs")
        new = asyncio.create_task(on_database(database, name="new"))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%colour%' AND wait_event = 'relation'"
        for _ in range(3):
            await eventually(lambda: postgresql.sql(waits) == "1")
            await old.put(of(old, a_record()))
        assert not new.done()

    await (await new).close()
    assert postgresql.sql("SELECT version FROM proxy_meta", database.rpartition("/")[2]) == str(NEXT)
    await old.close()


async def test_tables_that_stay_locked_end_the_start_with_one_line(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to wait for."""
    await (await on_database(database)).close()
    monkeypatch.setattr(schema, "VERSION", NEXT)
    monkeypatch.setattr(schema, "_UPGRADES", {NEXT - 1: "LOCK TABLE proxy_jobs;"})
    monkeypatch.setattr(schema, "_PATIENCE_S", 0.0)
    async with await AsyncConnection.connect(database) as dump:
        await dump.execute("SELECT FROM proxy_jobs")
        with pytest.raises(SettingsError) as error:
            await on_database(database)
    assert "a dump or a long query uses the tables: start again when it has ended" in str(error.value)


def test_a_server_without_a_free_connection_is_told() -> None:
    """It says how many are needed, and does not send anybody to look for a wrong password."""
    words = 'connection failed: FATAL: too many connections for role "proxy"'
    error = opening.unusable("postgresql://proxy@127.0.0.1/jobs", GoneError(words))
    assert "each instance needs six connections: raise max_connections" in str(error)


async def test_a_check_tells_of_a_server_with_too_few_connections() -> None:
    """Of the server, or of the role: those of an instance of this name count as free, as it is about to be replaced."""
    with own_server() as server:
        server.sql("CREATE ROLE u LOGIN")
        server.sql("GRANT CREATE ON SCHEMA public TO u")
        url = server.url(user="u")
        most = int(server.sql("SHOW max_connections")) - int(server.sql("SHOW superuser_reserved_connections"))
        async with await AsyncConnection.connect(url, application_name="async-job-proxy a"):
            await eventually(partial(_has_room, url, a=most, b=most - 1))
            server.sql("ALTER ROLE u CONNECTION LIMIT 6")
            await eventually(partial(_has_room, url, a=6, b=5))
            (warned,) = await _warnings(url, "b")
            assert "has room for 5 more connections; each instance needs six connections: raise" in warned
            assert await _warnings(url, "a") == []
            server.sql("ALTER ROLE u SUPERUSER")
            await eventually(partial(_has_room, url, a=int(server.sql("SHOW max_connections"))))


async def _has_room(url: str, **rooms: int) -> bool:
    """Whether there is room for these, once the server has noticed that this test's other connections are closed."""
    return {name: await room(url, name) for name in rooms} == rooms


async def _warnings(url: str, name: str) -> list[str]:
    """Return the warnings of a check of an instance of this name."""
    findings = await journal_findings(load({"JOURNAL": url, "INSTANCE_NAME": name}))
    return [words for verdict, words in findings if verdict is Verdict.WARNING]


async def test_tables_of_half_a_backup_are_told(database: str) -> None:
    """A restore that breaks off leaves tables without their keys, which pg_dump has at its end."""
    await (await on_database(database)).close()
    async with await AsyncConnection.connect(database) as other:
        await other.execute("ALTER TABLE proxy_instances DROP CONSTRAINT proxy_instances_pkey")
    with pytest.raises(SettingsError) as error:
        await on_database(database)
    assert str(error.value).endswith("the tables proxy_* are not complete: restore all of a backup, or drop them")


async def test_instances_that_start_at_once_make_the_tables_once(database: str) -> None:
    """On an empty database."""
    stores = await asyncio.gather(*(on_database(database, name=str(number)) for number in range(6)))
    records = [of(store, a_record()) for store in stores]
    await asyncio.gather(*(store.put(record) for store, record in zip(stores, records, strict=True)))
    assert all([await stores[0].by_id(record.id) for record in records])
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://u:ge/heim@127.0.0.1/x", "heim"),
        ("postgresql://u:ge?heim@127.0.0.1/x", "heim"),
        ("postgresql://u:ge%zzheim@127.0.0.1/x", "heim"),
        ("postgresql://u@127.0.0.1:1/x?password=geheim&bogus=1", "geheim"),
        ("postgresql://u:geheim@127.0.0.1:1/x?connect_timeout=geheim", "geheim"),
    ],
)
async def test_what_is_wrong_in_an_address_is_told_without_its_password(url: str, secret: str) -> None:
    """However badly it is written."""
    line = await refusal(url)
    assert line.startswith("JOURNAL: ")
    assert secret not in line
