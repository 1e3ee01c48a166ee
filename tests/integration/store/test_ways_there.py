"""What may stand between an instance and its database: TLS, a pooler, a failed primary with its standby."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from cluster.postgresql import PostgreSQL
from proxy.store.postgresql.opening import open_store, probe
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.record import Record
from shared.errors import SettingsError, StoreUnavailableError
from shared.lifecycle import State
from tests.support import pgbouncer
from tests.support.postgresql import own_server
from tests.support.records import a_record
from tests.support.stores import Heard, of, on_database
from tests.support.waiting import eventually

_TLS = Path(__file__).parents[2] / "support" / "tls"
_MUCH = 2_000_000
_needs_pgbouncer = pytest.mark.skipif(
    pgbouncer.PROGRAM is None, reason="PgBouncer is not installed (Debian package: pgbouncer)"
)


def called_back(record: Record, body: bytes) -> Record:
    """Return the record of a job whose callback came."""
    return structs.replace(record, state=State.FINISHED, finished_at=time.time(), callback=body)


async def test_tls_is_spoken_with_the_server_that_was_meant_and_with_no_other() -> None:
    """Megabytes are sent through it; an untrusted certificate is named, and so is a server that requires TLS."""
    made = own_server(configuration="ssl = on")
    for name, target in (("cert.pem", "server.crt"), ("key.pem", "server.key")):
        file = made.data / target
        shutil.copyfile(_TLS / name, file)
        file.chmod(0o600)
        os.chown(file, made.data.stat().st_uid, made.data.stat().st_gid)
    (made.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n", encoding="ascii")
    with made as server:
        url = f"{server.url()}?sslmode=verify-full&sslrootcert="

        store = await on_database(f"{url}{_TLS / 'cert.pem'}")
        record = of(store, a_record(state=State.SUBMITTING))
        await store.put(record)
        await store.put(called_back(record, os.urandom(_MUCH)))
        found = await store.by_id(record.id)
        assert found is not None
        assert found.callback is not None
        assert len(found.callback) == _MUCH
        await store.close()

        with pytest.raises(SettingsError, match="certificate verify failed"):
            await probe(f"{url}{_TLS / 'expired.pem'}")
        with pytest.raises(SettingsError, match=r"no pg_hba.conf entry .* no encryption"):
            await probe(f"{server.url()}?sslmode=disable")


@_needs_pgbouncer
async def test_a_pooler_that_keeps_sessions_apart_does(database: str, postgresql: PostgreSQL, tmp_path: Path) -> None:
    """An instance behind it is told what an instance without it has recorded."""
    with pgbouncer.running(postgresql.port, "session", tmp_path) as port:
        a = await on_database(f"postgresql://postgres@127.0.0.1:{port}/{database.rpartition('/')[2]}", heard=Heard())
        b = await on_database(database)
        record = of(a, a_record(state=State.SUBMITTING))
        await a.put(record)
        ended = asyncio.create_task(a.ended(record.id))
        done = called_back(record, b"1")
        await b.put(done)
        b.tell(done)
        assert (await ended).callback == b"1"
        await eventually(lambda: figure(a, "cluster_notices_heard"))
        await a.close()
        await b.close()


@_needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_connections_is_refused_in_one_line(
    mode: str, database: str, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """No statement would stay prepared there, and no notice would arrive."""
    with pgbouncer.running(postgresql.port, mode, tmp_path) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/{database.rpartition('/')[2]}"
        for attempt in (probe(url), open_store(url, ttl_s=60, name="a", warn=lambda _: None)):
            with pytest.raises(SettingsError, match=r"PgBouncer's pool_mode\).* set pool_mode = session") as refused:
                await attempt
            assert "\n" not in str(refused.value)


async def test_nothing_is_lost_when_a_synchronous_standby_takes_over() -> None:
    """Two instances know both servers, and continue at the promoted one; before that, a doubt is reported."""
    with (
        own_server() as primary,
        own_server(standby_of=primary) as standby,
    ):
        await eventually(lambda: primary.sql("SELECT count(*) FROM pg_stat_replication") == "1")
        assert "none of them is synchronous" in (await probe(primary.url())).doubt
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.sql("SELECT pg_reload_conf()")
        await eventually(lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == "sync")
        assert (await probe(primary.url())).doubt == ""
        url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        stores = [await on_database(url, name=name) for name in ("a", "b")]
        begun: list[Record] = []
        confirmed: list[Record] = []
        stop = asyncio.Event()
        writers = [asyncio.create_task(_write(store, begun, confirmed, stop)) for store in stores for _ in range(4)]
        await eventually(partial(_has, confirmed, 50))

        await asyncio.to_thread(primary.kill)
        recorded, accepted = list(confirmed), list(begun)
        await asyncio.to_thread(standby.promote)

        await eventually(partial(_has, confirmed, len(confirmed) + 50))
        stop.set()
        await asyncio.gather(*writers)
        for record in accepted:
            assert await stores[0].by_id(record.id) is not None
        for record in recorded + confirmed:
            found = await stores[1].by_id(record.id)
            assert found is not None
            assert found.callback == record.id.encode()
        for store in stores:
            await store.close()


async def _write(store: PostgreSQLStore, begun: list[Record], confirmed: list[Record], stop: asyncio.Event) -> None:
    """Begin and end jobs; a refusal by the database is expected and not counted."""
    while not stop.is_set():
        record = of(store, a_record(state=State.SUBMITTING))
        try:
            await store.put(record)
            begun.append(record)
            await store.put(called_back(record, record.id.encode()))
            confirmed.append(record)
        except StoreUnavailableError:
            await asyncio.sleep(0.1)


def _has(records: list[Record], wanted: int) -> bool:
    return len(records) >= wanted


def figure(store: PostgreSQLStore, name: str) -> float:
    """Return one of the store's figures."""
    (value,) = (reading.value for reading in store.readings() if reading.name == name)
    return value
