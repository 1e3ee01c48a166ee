"""A journal with very many jobs, written by SQL, like that of a proxy that has run for a day."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from proxy.store.journal.schema import prepare

__all__ = ["HOSTILE", "HOSTILE_ID", "write_journal"]

#: The worst text that a job, a job server or a client may send: markup, a script, characters that reverse the text.
HOSTILE: Final = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eback\u2066"
#: The job that has this text everywhere, and a label of 10 kB.
HOSTILE_ID: Final = "bad0" * 8
_SPAN_S: Final = 86_000.0
#: Every 50th job failed; jobs differ in code, words and duration.
_MANY: Final = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :jobs)
INSERT INTO jobs (id, token_hash, fingerprint, accepted_at, deadline_at, state, submitted, finished_at, code, detail,
    failure_submitted, callback, says_failed, early, duplicates, profile, remote, trail)
SELECT printf('%08x%024x', n * 2654435761 % 4294967296, n), randomblob(32), x'', ended - took, ended - took + 30,
    'finished', CASE WHEN n % 50 THEN 'yes' ELSE said END, ended, CASE WHEN n % 50 THEN NULL ELSE code END,
    CASE WHEN n % 50 THEN NULL ELSE 'it took too long: ' || (n / 50 % 2) || ' ms' END,
    CASE WHEN n % 50 THEN NULL ELSE said END,
    CASE WHEN n % 50 THEN x'7b7d' ELSE NULL END, 0, 0, 0, 'spreedly',
    '[{"id": "r' || n || '"}, "", "", {"account": "' || CASE n / 7 % 5 WHEN 0 THEN 'acme' WHEN 1 THEN 'zeta'
        ELSE 'omega' END || '"}, 0, ""]',
    '{"events": [[0.4, "assign"], [1.2, "connected"], [' || (2 + n % 40) || ', "reply-read"], [' || (took * 1000)
        || ', "callback"]]}'
FROM (SELECT n, :now - :span_s * (:jobs - n) / :jobs - 5 AS ended, 0.05 * (1 + n % 17) + (n % 997 = 0) * 20 AS took,
    CASE n / 50 % 3 WHEN 0 THEN 'worker-died' WHEN 1 THEN 'deadline-exceeded' ELSE 'job-rejected' END AS code,
    CASE n / 50 % 3 WHEN 0 THEN 'unknown' WHEN 1 THEN 'yes' ELSE 'no' END AS said FROM numbers)
"""
_ONE: Final = """
INSERT INTO jobs (id, token_hash, fingerprint, accepted_at, deadline_at, state, submitted, finished_at, code, detail,
    failure_submitted, says_failed, early, duplicates, profile, remote)
VALUES (:id, randomblob(32), x'', :now - 20, :now - 1, 'finished', 'yes', :now - 1, 'job-failed', :hostile, 'yes', 0, 0,
    0, :hostile, :remote)
"""


def write_journal(path: Path, jobs: int) -> None:
    """Write a journal with `jobs` jobs of the last day, and one more whose texts are all `HOSTILE`."""
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        prepare(db, path)
        db.execute("PRAGMA synchronous = OFF")
        now = time.time()
        labels = {"account": HOSTILE, "long": "x" * 10_000, "submitted": "a label"}
        remote = json.dumps([{"id": HOSTILE}, HOSTILE, HOSTILE, labels, 3, HOSTILE])
        db.execute("BEGIN")
        db.execute(_MANY, {"jobs": jobs, "now": now, "span_s": _SPAN_S})
        db.execute(_ONE, {"id": HOSTILE_ID, "now": now, "hostile": HOSTILE, "remote": remote})
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
