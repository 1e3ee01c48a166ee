"""`python -m bench.stores`: what a job costs the front end in the SQLite journal, and in a PostgreSQL of its own.

Two durable writes per job, as for a job without a key. The figure to look at is the CPU of this process; jobs per
second depend on the disk and on other processes. Then, how soon an instance is notified of what another one has
recorded of its job, both in this process.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time

import uvloop
from msgspec.structs import replace

from cluster.postgresql import PostgreSQL
from proxy.jobs.job import new_id
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.postgresql.opening import open_store
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import JobStore
from proxy.store.record import Record
from shared.lifecycle import State

_TTL_S = 3_600.0
#: After this long a notice counts as lost.
_LOST_S = 10.0
_BODY = b'{"id": "4aa90ad3b4e3db20", "state": "completed"}'
_TRAIL = '{"events":[[0.3,"assign"],[0.9,"connected"],[8.1,"reply-read"],[512.4,"callback"]],"pid":4711}'
#: The number of jobs at a time and in all, and how long each waits after each of its writes.
_RUNS = ((1, 500, 0.0), (16, 3_000, 0.0), (16, 1_500, 0.005), (64, 6_000, 0.0))
#: The number of jobs that wait for callbacks at a time and in all, and how long each waits.
_WAITS = ((1, 100, 0.02), (16, 800, 0.1), (64, 2_000, 0.25), (64, 2_000, 0.05))


async def _measure(store: JobStore, instance: str, at_once: int, jobs: int, pause_s: float) -> str:
    """Record jobs; return the figures as cells of a table."""
    took: list[float] = []
    left = iter(range(jobs))

    async def client() -> None:
        for _ in left:
            record = _begun(instance)
            began = time.perf_counter()
            await store.put(record)
            took.append(time.perf_counter() - began)
            await asyncio.sleep(pause_s)
            ended = replace(record, state=State.FINISHED, finished_at=time.time(), callback=_BODY, trail=_TRAIL)
            await store.put(ended)
            await asyncio.sleep(pause_s)

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(at_once)))
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    took.sort()
    p50_ms, p99_ms = (1_000 * took[int(share * len(took))] for share in (0.5, 0.99))
    return f"{jobs / elapsed_s:,.0f} | {1_000 * cpu_s / jobs:.3f} | {p50_ms:.2f} | {p99_ms:.2f}"


async def _wake(owner: PostgreSQLStore, other: PostgreSQLStore, at_once: int, jobs: int, pause_s: float) -> str:
    """Record callbacks at the other instance; return the times from recording until the job's owner is notified."""
    heard: dict[str, asyncio.Future[None]] = {}
    took: list[float] = []
    left = iter(range(jobs))

    def on_changed(record: Record) -> None:
        if record.id in heard and not heard[record.id].done():
            heard[record.id].set_result(None)

    async def client() -> None:
        for _ in left:
            record = _begun(owner.instance)
            await owner.put(record)
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause_s)
            heard[record.id] = asyncio.get_running_loop().create_future()
            ended = replace(record, state=State.FINISHED, finished_at=time.time(), callback=_BODY, trail=_TRAIL)
            await other.put(ended)
            began = time.perf_counter()
            other.tell(ended)
            await asyncio.wait_for(heard[record.id], _LOST_S)
            took.append(time.perf_counter() - began)
            del heard[record.id]

    owner.watch(on_changed=on_changed, on_taken_over=lambda _: None)
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    elapsed_s = time.perf_counter() - began
    took.sort()
    p50_ms, p99_ms = (1_000 * took[int(share * len(took))] for share in (0.5, 0.99))
    return f"{at_once} | {1_000 * pause_s:g} | {jobs / elapsed_s:,.0f} | {p50_ms:.2f} | {p99_ms:.2f}"


def _begun(instance: str) -> Record:
    now = time.time()
    return Record(
        id=new_id(),
        token_hash=os.urandom(32),
        state=State.SUBMITTING,
        accepted_at=now,
        deadline_at=now + 30,
        labels={"account": "example"},
        owner=instance,
        origin=instance,
    )


async def _run(url: str, folder: str) -> None:
    journal = Journal(JournalFile(f"{folder}/jobs.sqlite3"), ttl_s=_TTL_S)
    database = await open_store(url, ttl_s=_TTL_S, name="bench", warn=print)
    print("|  | at once | pause ms | jobs/s | CPU ms a job | written p50 ms | p99 ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for at_once, jobs, pause_s in _RUNS:
        figures = f"{at_once} | {1_000 * pause_s:g}"
        print(f"| journal | {figures} | {await _measure(journal, '', at_once, jobs, pause_s)} |", flush=True)
        one = await _measure(database, database.instance, at_once, jobs, pause_s)
        print(f"| PostgreSQL | {figures} | {one} |", flush=True)
    other = await open_store(url, ttl_s=_TTL_S, name="other", warn=print)
    print("\n| at once | callback after ms | jobs/s | owner woken p50 ms | p99 ms |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for at_once, jobs, pause_s in _WAITS:
        print(f"| {await _wake(database, other, at_once, jobs, pause_s)} |", flush=True)
    await other.close()
    await database.close()
    await journal.close()


if __name__ == "__main__":
    with PostgreSQL() as server, tempfile.TemporaryDirectory(prefix="bench-") as place:
        uvloop.run(_run(server.url(), place))
