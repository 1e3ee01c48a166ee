"""Checks the database before it is used; one line reports an unusable database and the fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from proxy.store.postgresql.leases import Times
from proxy.store.postgresql.schema import prepare
from proxy.store.postgresql.session import LOCKED, GoneError, Session, UnfitError, code_of
from proxy.store.postgresql.store import PostgreSQLStore
from shared.database_url import shown, without_secrets
from shared.errors import SettingsError

__all__ = [
    "CONNECTIONS",
    "MORE_ROOM",
    "OLDEST_SERVER",
    "Found",
    "open_store",
    "probe",
    "reading_session",
    "room",
    "unusable",
]

#: The most connections of an instance: two of them only while operators ask about many jobs.
CONNECTIONS: Final = 6
MORE_ROOM: Final = "each instance needs six connections: raise max_connections, or the limit of its role or database"
#: No feature of a newer version is used. The oldest version that was still maintained when this was written is 14.
OLDEST_SERVER: Final = 13
#: Defaults for what the URL does not say. The first one limits how long to wait for a host when connecting, the others
#: when an established connection is given up, though session.py may give up on the server earlier.
_DEFAULTS: Final = {
    "connect_timeout": "2",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
#: Creating or changing tables may have to wait for another instance that is doing so.
_PREPARE_S: Final = 60.0
#: At a start no client waits yet, and the machine may be busy with other starts.
_START_S: Final = 10.0
_LOOK: Final = """
SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync') = 'on', pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on', current_setting('synchronous_standby_names') <> '',
    (SELECT count(*) FROM pg_stat_replication)::int, current_database()::text,
    has_schema_privilege(current_schema(), 'CREATE')
"""
#: The id of the server's process.
_PID: Final = "SELECT pg_backend_pid()"
#: PgBouncer's error if each statement may use another connection.
_NO_TRANSACTIONS: Final = "transaction blocks not allowed"
#: Checks the rights that are needed later, by statements that affect no rows.
_RIGHTS: Final = """
WITH d AS (DELETE FROM proxy_jobs WHERE false), u AS (UPDATE proxy_jobs SET owner = '' WHERE false),
    i AS (INSERT INTO proxy_jobs OVERRIDING SYSTEM VALUE SELECT * FROM proxy_jobs WHERE false),
    b AS (DELETE FROM proxy_instances WHERE false), c AS (UPDATE proxy_instances SET beat_at = now() WHERE false),
    e AS (INSERT INTO proxy_instances SELECT * FROM proxy_instances WHERE false),
    m AS (UPDATE proxy_meta SET version = version WHERE false)
SELECT FROM proxy_jobs, proxy_instances WHERE false
"""
#: How many connections the server, the role and the database have left for programs other than this check and `$1`. Who
#: may not see all columns of others' connections sees whose they are.
_ROOM: Final = """
SELECT least(
    current_setting('max_connections')::int - in_all - CASE WHEN rolsuper THEN 0 ELSE
        current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int END,
    CASE WHEN NOT rolsuper THEN nullif(rolconnlimit, -1) - of_role END,
    CASE WHEN NOT rolsuper THEN nullif(datconnlimit, -1) - of_database END)::int
FROM pg_roles, pg_database, (
    SELECT count(*) AS in_all, count(*) FILTER (WHERE usename = session_user) AS of_role,
        count(*) FILTER (WHERE datname = current_database()) AS of_database
    FROM pg_stat_activity
    WHERE datid IS NOT NULL AND usesysid IS NOT NULL AND leader_pid IS NULL AND pid <> pg_backend_pid()
        AND application_name IS DISTINCT FROM $1) AS used
WHERE rolname = session_user AND pg_database.datname = current_database()
"""
#: The words of the errors for a refused login (SQLSTATE class 28), and for a missing database.
_NO_LOGIN: Final = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "role")
_MISSING: Final = "does not exist"
#: Those for a server, a database or a role without a free connection.
_NO_PLACE: Final = ("too many clients", "too many connections", "connection slots are reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A usable database."""

    server: int
    #: The version of its tables; None: there are none yet.
    tables: int | None
    #: A problem that may lose jobs although the database works; empty: none.
    doubt: str


async def probe(url: str) -> Found:
    """Check the database without changing it. Raises SettingsError: it cannot be used."""
    return await _look(url, "check", upgrade=False)


async def room(url: str, name: str) -> int:
    """Return how many more connections the instance of this name could open, if it is not running.

    Raises:
        SettingsError: the database cannot be used.
    """
    session = Session(_conninfo(url, "check"), hosts=_hosts(url))
    try:
        ((free,),) = await session.run(_ROOM, _application_name(name), patience_s=_START_S)
    except (GoneError, UnfitError) as exc:
        raise unusable(url, exc) from exc
    finally:
        session.close()
    return int(free)


async def reading_session(url: str) -> Session:
    """Return a read-only connection. Raises GoneError, UnfitError; SettingsError: the address is not valid."""
    session = Session(_conninfo(url, "jobs"), durable=False, hosts=_hosts(url))
    try:
        await session.run("SET default_transaction_read_only = on", patience_s=_START_S)
    except BaseException:
        session.close()
        raise
    return session


async def open_store(
    url: str, *, ttl_s: float, name: str, warn: Callable[[str], None], times: Times | None = None
) -> PostgreSQLStore:
    """Open the store in this database and register this process as an instance; `warn` is called with any problem.

    Raises:
        SettingsError: the database cannot be used.
    """
    conninfo, hosts = _conninfo(url, name), _hosts(url)
    found = await _look(url, name, upgrade=True)
    if found.doubt:
        warn(found.doubt)
    store = PostgreSQLStore(conninfo, place=shown(url), name=name, ttl_s=ttl_s, hosts=hosts, times=times)
    try:
        await store.begin()
    except (GoneError, UnfitError) as exc:
        await store.close()
        raise unusable(url, exc) from exc
    return store


async def _look(url: str, name: str, *, upgrade: bool) -> Found:
    session, beside = (Session(_conninfo(url, name), hosts=_hosts(url)) for _ in range(2))
    try:
        if await _shares_connections(session, beside):
            raise SettingsError(
                f"JOURNAL: {shown(url)} is a pooler that may have another connection to the database for each "
                "transaction (PgBouncer's pool_mode); name the database itself, or set pool_mode = session"
            )
        return await _look_at(session, url, upgrade=upgrade)
    except (GoneError, UnfitError) as exc:
        raise unusable(url, exc) from exc
    finally:
        session.close()
        beside.close()


async def _shares_connections(session: Session, beside: Session) -> bool:
    """Whether a pooler in between makes our sessions share server connections: prepared statements would get lost."""
    ((pid,),) = await session.script(_PID, patience_s=_START_S)
    if pid == session.backend_pid:
        return False
    try:
        ((other,),) = await beside.script(f"BEGIN; {_PID}", patience_s=_START_S)
    except GoneError as exc:
        if _NO_TRANSACTIONS in str(exc):
            return True
        raise
    if other == pid:
        return True
    ((again,),) = await session.script(_PID, patience_s=_START_S)
    return bool(again != pid)


async def _look_at(session: Session, url: str, *, upgrade: bool) -> Found:
    async def ask(sql: str) -> Sequence[tuple[Any, ...]]:
        return await session.script(sql, patience_s=_PREPARE_S)

    place = shown(url)
    await ask(f"SET lock_timeout = {round(_START_S * 900)}")
    ((version, fsync, in_recovery, read_only, has_sync, replicas, database, may_create),) = await session.run(
        _LOOK, patience_s=_START_S
    )
    if version < OLDEST_SERVER:
        raise SettingsError(
            f"JOURNAL: {place} is PostgreSQL {version}, {OLDEST_SERVER} or newer is needed; upgrade the server"
        )
    if in_recovery or read_only:
        raise SettingsError(f"JOURNAL: {place} is a read-only replica; name the primary, or several hosts")
    if not fsync:
        raise SettingsError(
            f"JOURNAL: {place} has fsync=off and would lose jobs in a power failure; set fsync=on in postgresql.conf"
        )
    tables = await prepare(ask, upgrade=upgrade)
    if tables is None and not upgrade and not may_create:
        raise SettingsError(f"JOURNAL: {place}: {_no_rights(database)}")
    if tables is not None or upgrade:
        await session.run(_RIGHTS, patience_s=_START_S)
    doubt = ""
    if replicas and not has_sync:
        doubt = (
            f"{place} has replicas, and none of them is synchronous: a failover may lose the newest jobs; set "
            "synchronous_standby_names"
        )
    return Found(server=version, tables=tables, doubt=doubt)


def unusable(url: str, exc: GoneError | UnfitError) -> SettingsError:
    """Return the one-line error for an error of the server or of the connection."""
    code = code_of(exc)
    words = without_secrets(url, str(exc))
    if code == "42501":
        return SettingsError(f"JOURNAL: {shown(url)}: {words}; {_grant()}")
    if any(said in words for said in _NO_PLACE):
        remedy = MORE_ROOM
    elif code.startswith("28") or any(said in words for said in _NO_LOGIN):
        remedy = "check the user, the password (or PGPASSWORD, PGPASSFILE) and the server's pg_hba.conf"
    elif _MISSING in words:
        remedy = "create it (createdb)"
    elif "read-only" in words:
        remedy = "name the primary, or several hosts"
    elif code.startswith("42"):  # a column or a key that the proxy's tables have
        remedy = "the tables proxy_* are not complete: restore all of a backup, or drop them"
    elif code == LOCKED:
        remedy = "a dump or a long query uses the tables: start again when it has ended"
    else:
        remedy = "is the server running, and does it accept connections from here?"
    return SettingsError(f"JOURNAL: cannot use {shown(url)}: {words}; {remedy}")


def _no_rights(database: object) -> str:
    return f"the tables are not there and this user may not create them in {database}; {_grant()}"


def _grant() -> str:
    return "grant CREATE on the schema (GRANT CREATE, USAGE ON SCHEMA public TO ...), or make it the database's owner"


def _conninfo(url: str, name: str) -> str:
    """Return the connection string for libpq. Raises SettingsError: libpq does not understand the URL."""
    given = _parsed(url)
    defaults = _DEFAULTS | {"application_name": _application_name(name)}
    return make_conninfo(url, **{key: value for key, value in defaults.items() if key not in given})


def _application_name(name: str) -> str:
    return f"async-job-proxy {name}"[:60]


def _hosts(url: str) -> int:
    return len(str(_parsed(url).get("host", "")).split(","))


def _parsed(url: str) -> dict[str, object]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError as exc:
        words = without_secrets(url, " ".join(str(exc).split()))
        raise SettingsError(f"JOURNAL: {shown(url)} is not a valid database address: {words}") from None
