"""The journal as `--check` sees it: whether jobs can be recorded, and what a start would do to it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.run.findings import Verdict
from proxy.store.journal.file import JournalFile
from proxy.store.journal.reserve import Reserve
from proxy.store.journal.schema import VERSION
from shared.database_url import is_database, shown
from shared.errors import SettingsError

if TYPE_CHECKING:
    from proxy.run.findings import Finding
    from shared.settings import Settings

__all__ = ["journal_findings"]


async def journal_findings(settings: Settings) -> list[Finding]:
    """Return what is found about the journal; it stays as it is."""
    try:
        if is_database(settings.journal):
            return await _of_database(settings)
        if settings.journal:
            return [_of_file(settings)]
    except SettingsError as exc:
        return [(Verdict.FAILED, str(exc))]
    return [(Verdict.OK, "none: jobs are remembered in memory only")]


async def _of_database(settings: Settings) -> list[Finding]:
    """Return what is found about a database. Raises SettingsError."""
    from proxy.store.postgresql.opening import CONNECTIONS, MORE_ROOM, probe, room  # noqa: PLC0415 - loads the driver
    from proxy.store.postgresql.schema import VERSION as TABLES  # noqa: PLC0415 - the same

    url = settings.journal
    found = await probe(url)
    place = f"{shown(url)} (PostgreSQL {found.server})"
    doubts: list[Finding] = [(Verdict.WARNING, found.doubt)] if found.doubt else []
    free = await room(url, settings.instance_name or socket.gethostname())
    if free < CONNECTIONS:
        doubts.append((Verdict.WARNING, f"{place} has room for {max(0, free)} more connections; {MORE_ROOM}"))
    if found.tables is None:
        return [*doubts, (Verdict.OK, f"{place}, without tables: a start makes them")]
    if found.tables < TABLES:
        words = f"{place} has tables of version {found.tables}: a start upgrades them, and old instances go on"
        return [*doubts, (Verdict.WARNING, words)]
    return [*doubts, (Verdict.OK, place)]


def _of_file(settings: Settings) -> Finding:
    """Return what is found about a file. Raises SettingsError."""
    path = Path(settings.journal)
    version = _written(path) if os.path.exists(path) else _written_beside(path)  # noqa: PTH110 - returns False for a name that is too long
    place, reserve = path.resolve(), Reserve(path)
    missing = reserve.missing_bytes()
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and largest < 2 * reserve.size_bytes:
        words = f"no file may be larger than {largest} bytes, jobs would be refused; raise the limit (ulimit -f)"
        return Verdict.FAILED, f"{place}: {words}"
    if missing:
        return Verdict.FAILED, f"{place}: the disk is full, jobs would be refused; {missing} bytes more are needed"
    if version < VERSION:
        words = f"{place} has the table of version {version}: a start upgrades it, for good; keep a copy"
        return Verdict.WARNING, words
    if settings.journal_max_bytes <= settings.max_body_bytes:
        words = f"{place} forgets a result of MAX_BODY_BYTES at once and its key; raise JOURNAL_MAX_BYTES"
        return Verdict.WARNING, words
    return Verdict.OK, str(place)


def _written(path: Path) -> int:
    """Open a journal without upgrading it, write to it, and return its table's version.

    Raises:
        SettingsError: that failed.
    """
    try:
        journal = JournalFile(str(path), upgrade=False)
        try:
            journal.probe()
        finally:
            journal.close()
    except (sqlite3.Error, OSError) as exc:
        raise SettingsError(f"JOURNAL: {str(path)!r} cannot be written: {exc}") from exc
    return journal.version


def _written_beside(path: Path) -> int:
    """Do the same with another file in the same folder, so that a check leaves nothing for a start to find."""
    stand_in = path.with_name(f"{path.name}.check")
    try:
        return _written(stand_in)
    except SettingsError as exc:
        raise SettingsError(str(exc).replace(repr(str(stand_in)), repr(str(path)))) from exc
    finally:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                stand_in.with_name(stand_in.name + suffix).unlink()
