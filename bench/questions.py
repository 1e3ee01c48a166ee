"""`python -m bench.questions`: how long queries take in a journal with a million jobs.

A journal is filled by SQL in a temporary folder (300 MB), then queried as an operator would. Each line is one query:
how long the first page and the counts took, and for how long the event loop was blocked meanwhile, at worst.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import uvloop

from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.store.patterns import Grid
from proxy.store.query import Counts, JobPage, JobQuery, Sort
from shared.lifecycle import State

__all__ = ["FIRST_END", "JOBS", "fill", "main"]

JOBS: Final = 1_000_000
#: When the first of the jobs ended, in Unix time; after that, ten jobs ended each second.
FIRST_END: Final = 1_790_000_000.0
#: One job in a hundred failed, one in a thousand lost its worker; a thousand accounts; the last ten are open.
_FILL: Final = f"""
WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {JOBS})
INSERT INTO jobs (n, id, token_hash, key, fingerprint, accepted_at, deadline_at, profile, state, submitted, finished_at,
    code, detail, failure_submitted, callback, says_failed, early, duplicates, remote, worker_end, trail)
SELECT i, printf('%032d', i), CAST(printf('%032d', i) AS BLOB), NULL, x'',
    {FIRST_END} + i * 0.1 - 0.5 - (i * 7919 % 1000) / 1000.0, {FIRST_END} + i * 0.1 + 30, 'spreedly',
    CASE WHEN i > {JOBS} - 10 THEN 'waiting' ELSE 'finished' END,
    CASE WHEN i % 1000 = 0 THEN 'unknown' ELSE 'yes' END,
    CASE WHEN i <= {JOBS} - 10 THEN {FIRST_END} + i * 0.1 END,
    CASE WHEN i > {JOBS} - 10 THEN NULL WHEN i % 1000 = 0 THEN 'worker-died'
        WHEN i % 100 = 0 THEN 'deadline-exceeded' END,
    CASE WHEN i % 1000 = 0 THEN 'the worker with pid ' || i || ' did not finish the job: it was killed by SIGKILL'
        WHEN i % 100 = 0 THEN 'no callback came in time' END,
    CASE WHEN i % 1000 = 0 THEN 'unknown' WHEN i % 100 = 0 THEN 'yes' END,
    CASE WHEN i % 100 <> 0 AND i <= {JOBS} - 10 THEN x'7b7d' END, 0, 0, 0,
    '[{{"id": "' || i || '"}}, "", "", {{"account": "a' || (i % 1000) || '"}}, 0, ""]',
    CASE WHEN i % 1000 = 0 THEN 'SIGKILL' END,
    CASE WHEN i <= {JOBS} - 10
        THEN '0.2 assign 0.9 connected 8.1 reply-read ' || (500 + i * 7919 % 1000) || ' callback' END
FROM c
"""  # noqa: S608 - our own numbers
_LAST_HOUR: Final = FIRST_END + JOBS * 0.1 - 3_600
_QUESTIONS: Final = {
    "the newest": (JobQuery(), Sort.NEWEST),
    "the oldest": (JobQuery(), Sort.OLDEST),
    "failures": (JobQuery(failed=True), Sort.NEWEST),
    "failures of the last hour": (JobQuery(failed=True, since=_LAST_HOUR), Sort.NEWEST),
    "workers killed": (JobQuery(codes=frozenset({"worker-died"})), Sort.NEWEST),
    "failures of one account": (JobQuery(failed=True, labels={"account": "a100"}), Sort.NEWEST),
    "one account of a thousand": (JobQuery(labels={"account": "a77"}), Sort.NEWEST),
    "a word that no job has": (JobQuery(text="no such word"), Sort.NEWEST),
    "how an id begins": (JobQuery(text=f"{4711:032d}"[:30]), Sort.NEWEST),
    "open": (JobQuery(states=frozenset(State) - {State.FINISHED}), Sort.NEWEST),
    "the slowest": (JobQuery(), Sort.SLOWEST),
    "the slowest of the last hour": (JobQuery(since=_LAST_HOUR), Sort.SLOWEST),
}
_GRID: Final = Grid(since=FIRST_END, bucket_s=JOBS * 0.1 / 50, buckets=50)
_ROUNDS: Final = 5
_PAGE: Final = 50


def fill(path: Path) -> None:
    """Fill an empty journal, which is not in use, with `JOBS` jobs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute(_FILL)


async def _held_up(held: list[float]) -> None:
    """Note how late each timer of a millisecond is."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        held.append(time.perf_counter() - began - 0.001)


async def _ask(path: Path) -> None:
    journal = Journal(JournalFile(str(path)), ttl_s=10 * 365 * 86_400.0)
    print("| question | page ms | counts ms | jobs | looked at all | event loop held up ms |")
    print("| --- | ---: | ---: | ---: | --- | ---: |")
    for name, (query, sort) in _QUESTIONS.items():
        pages, counted, held = [], [], list[float]()
        holding = asyncio.create_task(_held_up(held))
        page, counts = JobPage(records=(), next=None), Counts()
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            page = await journal.jobs(query, sort=sort, limit=_PAGE)
            pages.append(time.perf_counter() - began)
            began = time.perf_counter()
            counts = await journal.counts(query)
            counted.append(time.perf_counter() - began)
        holding.cancel()
        total = f"{counts.total}{'' if counts.counted_to is None else '+'}"
        whole = "yes" if page.searched_to is None else "no"
        figures = f"{1_000 * max(pages):.1f} | {1_000 * max(counted):.1f} | {total} | {whole} | {1_000 * max(held):.1f}"
        print(f"| {name} | {figures} |", flush=True)
    for name, (query, _) in _QUESTIONS.items():
        began = time.perf_counter()
        found = await journal.patterns(query, _GRID, "account")
        took_ms = 1_000 * (time.perf_counter() - began)
        print(f"patterns of {name}: {took_ms:.1f} ms, of {found.jobs} jobs", flush=True)
    await journal.close()


def main() -> None:
    """Fill a journal, query it, and print a table: the longest of five times each."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "jobs.sqlite3"
        JournalFile(str(path)).close()
        began = time.perf_counter()
        fill(path)
        print(f"filled with {JOBS:,} jobs in {time.perf_counter() - began:.1f} s, {path.stat().st_size / 1e6:.0f} MB")
        uvloop.run(_ask(path))


if __name__ == "__main__":
    main()
