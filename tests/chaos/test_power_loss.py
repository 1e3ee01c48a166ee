"""A machine loses power: that of a database, which loses nothing, or that of the proxy with its journal."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec import structs

from cluster.postgresql import PostgreSQL
from proxy.store.journal import origin
from proxy.store.journal.file import JournalFile
from proxy.store.postgresql.session import Session
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.record import Record
from shared.errors import StoreUnavailableError
from shared.lifecycle import State
from tests.chaos.support import power
from tests.support.records import a_record
from tests.support.stores import of, on_database
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(bool(power.lacking()), reason=power.lacking() or "it can be done")
_WRITERS = 8
_JOBS = 200


@pytest.mark.parametrize("flushes", [True, False])
async def test_what_was_confirmed_outlives_the_power(flushes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each confirmed job, and each confirmed end. If commits did not wait for the disk, the newest would be missing."""
    if not flushes:
        _let_commits_not_wait(monkeypatch)
    with TemporaryDirectory(prefix="power-") as folder:
        Path(folder).chmod(0o755)
        file, copy = Path(folder, "disk"), Path(folder, "copy")
        try:
            with power.disk(file, megabytes=400) as place, PostgreSQL(parent=place) as server:
                confirmed = await _write_until_the_power_goes(server, file, copy)
                left = server.data.relative_to(place)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no file system can be mounted: {exc.stderr}")
        with power.disk(copy) as place, _with_data(place / left) as server:
            store = await on_database(server.url())
            missing = [record.id for record in confirmed if not await _is_there(store, record)]
            await store.close()
    assert bool(missing) is not flushes, f"{len(missing)} of {len(confirmed)} are missing"


@pytest.mark.parametrize("synced", [True, False], ids=["much later", "soon after"])
def test_a_journal_that_lost_its_last_records_does_not_deny_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, synced: bool
) -> None:
    """The power goes soon after a start, or later; the job is submitted by then, but its last record is lost."""
    file, copy, boot = tmp_path / "disk", tmp_path / "copy", tmp_path / "boot_id"
    monkeypatch.setattr(origin, "_BOOT", boot)
    boot.write_text("first")
    record = a_record()
    try:
        with power.disk(file, megabytes=64) as place:
            path = place / "jobs.sqlite3"
            JournalFile(str(path)).close()  # an earlier run
            with closing(sqlite3.connect(path)) as db:
                db.execute("UPDATE probe SET times = 1 WHERE n = 3")  # which began long ago
                db.commit()
            _sync(place)
            before = time.time()
            journal = JournalFile(str(path))
            journal.write([record])
            if synced:
                _sync(place)
            journal.write([structs.replace(record, state=State.SUBMITTING)])
            _cut_power(file, copy)
            journal.close()
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no file system can be mounted: {exc.stderr}")
    boot.write_text("second")
    with power.disk(copy) as place, closing(JournalFile(str(place / "jobs.sqlite3"))) as journal:
        assert journal.lost_before >= before
        assert [job.state for job in journal.unfinished()] == ([State.SUBMITTING] if synced else [])


def _sync(place: Path) -> None:
    subprocess.run(["sync", "-f", str(place)], check=True)


def _cut_power(file: Path, copy: Path) -> None:
    """Make a copy of the disk as it is at this moment."""
    command = ["dd", f"if={file}", f"of={copy}", "bs=4M", "iflag=direct", "conv=sparse"]
    subprocess.run(command, check=True, capture_output=True)


class _Moved(PostgreSQL):
    """A server without data of its own."""

    def _make(self, *_: object) -> None:
        pass


def _with_data(data: Path) -> PostgreSQL:
    """Return a server on the data of another one."""
    server = _Moved(parent=data.parents[1])
    data.rename(server.data)
    return server


def _let_commits_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Session.__init__

    def not_durable(self: Session, conninfo: str, *, durable: bool = True, **others: Any) -> None:
        del durable
        make(self, conninfo, durable=False, **others)

    monkeypatch.setattr(Session, "__init__", not_durable)


async def _write_until_the_power_goes(server: PostgreSQL, file: Path, copy: Path) -> list[Record]:
    """Return the records confirmed until then; `copy` is the disk at that moment."""
    store = await on_database(server.url())
    _sync(server.data)  # the server's creation is not under test
    confirmed: list[Record] = []
    writers = [asyncio.create_task(_write(store, confirmed)) for _ in range(_WRITERS)]
    await eventually(lambda: len(confirmed) > _JOBS)
    server.pause()
    known = list(confirmed)
    await asyncio.to_thread(_cut_power, file, copy)
    server.kill()
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await store.close()
    return known


async def _write(store: PostgreSQLStore, confirmed: list[Record]) -> None:
    while True:
        record = of(store, a_record(state=State.SUBMITTING))
        try:
            await store.put(record)
            confirmed.append(record)
            ended = structs.replace(record, state=State.FINISHED, finished_at=time.time(), callback=record.id.encode())
            await store.put(ended)
            confirmed.append(ended)
        except StoreUnavailableError:
            return


async def _is_there(store: PostgreSQLStore, record: Record) -> bool:
    found = await store.by_id(record.id)
    return found is not None and (record.callback is None or found.callback == record.callback)
