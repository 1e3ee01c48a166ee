"""The tables: their creation, and the migration from earlier versions while other instances keep running.

Instances of different versions may share the tables, so that they can be upgraded one after the other. So columns are
only ever added, with a default that means what their absence meant. `proxy_meta` says which version the tables have,
and which one a proxy must know at least to write to them. An instance that changes them holds a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from proxy.store.postgresql.session import LOCKED, GoneError, code_of
from shared.errors import SettingsError

__all__ = ["LOCK", "VERSION", "prepare"]

#: The version of the tables that this proxy knows. Each upgrade adds one; `_OLDEST_WRITER` is raised, too, if older
#: proxies would do harm.
VERSION: Final = 3
_OLDEST_WRITER: Final = 1
#: "jobs" in ASCII: the advisory lock for creating or changing the tables.
LOCK: Final = 0x6A6F6273
#: How long to wait for a table that others use, because all that the running instances do waits behind us; and for how
#: long to try again.
_LOCK_S: Final = 1.0
_PATIENCE_S: Final = 45.0
_DDL: Final = """
CREATE TABLE IF NOT EXISTS proxy_meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    oldest_writer integer NOT NULL,
    lost_before timestamptz NOT NULL DEFAULT 'epoch'
);
CREATE TABLE IF NOT EXISTS proxy_instances (
    id text PRIMARY KEY,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS proxy_jobs (
    n bigint GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" PRIMARY KEY,
    token_hash bytea NOT NULL UNIQUE,
    key bytea,
    key_held boolean NOT NULL,
    fingerprint bytea NOT NULL,
    origin text NOT NULL,
    owner text NOT NULL,
    profile text NOT NULL,
    state text COLLATE "C" NOT NULL,
    submitted text NOT NULL,
    accepted_at timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    finished_at timestamptz,
    code text,
    detail text NOT NULL,
    failure_submitted text,
    callback bytea,
    says_failed boolean NOT NULL,
    early boolean NOT NULL,
    duplicates integer NOT NULL,
    outputs text NOT NULL,
    labels text NOT NULL,
    refused integer NOT NULL,
    refusal text NOT NULL,
    content_type text NOT NULL,
    error text NOT NULL,
    instance text NOT NULL DEFAULT '',
    worker_end text NOT NULL DEFAULT '',
    cancelled_by text NOT NULL DEFAULT '',
    trail text NOT NULL DEFAULT '',
    sent bytea
) WITH (fillfactor = 70);
ALTER TABLE proxy_jobs ALTER COLUMN callback SET STORAGE EXTERNAL, ALTER COLUMN sent SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX IF NOT EXISTS proxy_jobs_held ON proxy_jobs (key) WHERE key_held;
CREATE INDEX IF NOT EXISTS proxy_jobs_by_key ON proxy_jobs (key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS proxy_jobs_open ON proxy_jobs (owner) WHERE finished_at IS NULL;
CREATE INDEX IF NOT EXISTS proxy_jobs_by_end ON proxy_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS proxy_jobs_failed ON proxy_jobs (finished_at) WHERE code IS NOT NULL OR says_failed;
"""
#: The audit entries.
_AUDIT: Final = """
CREATE TABLE IF NOT EXISTS proxy_audit (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    what text NOT NULL,
    who text NOT NULL,
    via text NOT NULL,
    peer text NOT NULL,
    instance text NOT NULL,
    "of" text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    is_coming boolean NOT NULL
);
CREATE INDEX IF NOT EXISTS proxy_audit_by_kind ON proxy_audit (is_coming, n);
"""
#: How a job ended, and an index for queries about failed jobs (proxy/store/search.py).
_FROM_1: Final = """
ALTER TABLE proxy_jobs
    ADD COLUMN IF NOT EXISTS instance text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS worker_end text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS cancelled_by text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS trail text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS sent bytea;
ALTER TABLE proxy_jobs ALTER COLUMN sent SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS proxy_jobs_failed ON proxy_jobs (finished_at) WHERE code IS NOT NULL OR says_failed;
"""
#: Until when jobs may have ended that these tables have lost.
_FROM_2: Final = "ALTER TABLE proxy_meta ADD COLUMN IF NOT EXISTS lost_before timestamptz NOT NULL DEFAULT 'epoch';"
#: The upgrade from each version to the next one. Each may be executed twice (IF NOT EXISTS).
_UPGRADES: Final = {1: _FROM_1 + _AUDIT, 2: _FROM_2}

Ask = Callable[[str], Awaitable[Sequence[tuple[Any, ...]]]]


async def prepare(ask: Ask, *, upgrade: bool = True) -> int | None:
    """If `upgrade`, create the tables or bring them up to date. Return the version that was found; None: no tables.

    `ask` executes SQL. All changes are one transaction, sent at once, so a crash in the middle changes nothing.

    Raises:
        SettingsError: a later version of the proxy has made tables that this one would damage.
    """
    version = await _version(ask)
    if upgrade and (version is None or version < VERSION):
        await _change(ask, version)
    return version


async def _change(ask: Ask, version: int | None) -> None:
    change = (
        f"BEGIN; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({LOCK}); "
        f"SET LOCAL lock_timeout = {round(_LOCK_S * 1000)}; {_steps(version)} COMMIT;"
    )
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            await ask(change)
        except GoneError as exc:
            if code_of(exc) != LOCKED or time.monotonic() > end:
                raise
        else:
            return
        await ask("ROLLBACK")
        await asyncio.sleep(_LOCK_S)


async def _version(ask: Ask) -> int | None:
    ((there,),) = await ask("SELECT to_regclass('proxy_meta') IS NOT NULL")
    if not there:
        return None
    rows = await ask("SELECT version, oldest_writer FROM proxy_meta")
    if not rows:
        return None
    ((version, oldest_writer),) = rows
    if oldest_writer > VERSION:
        raise SettingsError(
            f"JOURNAL: the tables in this database are a later version of the proxy's (version {version}, this one "
            f"knows {VERSION} and may not write to them); run that version, or name another database"
        )
    return int(version)


def _steps(version: int | None) -> str:
    """Return the SQL to execute; another instance may have executed it before we got the lock."""
    if version is None:
        # Other tables may have been here before.
        row = f"VALUES ({VERSION}, {_OLDEST_WRITER}, now()) ON CONFLICT DO NOTHING"
        return f"{_DDL} {_AUDIT} INSERT INTO proxy_meta (version, oldest_writer, lost_before) {row};"
    steps = " ".join(_UPGRADES[step] for step in range(version, VERSION))
    changed = f"version = greatest(version, {VERSION}), oldest_writer = greatest(oldest_writer, {_OLDEST_WRITER})"
    return f"{steps} UPDATE proxy_meta SET {changed};"  # noqa: S608 - our own numbers
