"""The statements on the table of jobs. Each may be carried out twice without harm: it says what it expects.

All times are the database's: what is written is `now()` and so many seconds, and so it is read. What several rows are
locked for is done in the order of their ids, or two instances could wait for one another.
"""

from __future__ import annotations

from typing import Final

from proxy.store.fields import FAILURES_AMONG, SMALL_BYTES
from proxy.store.postgresql.rows import COLUMNS, INSERTED, UPDATED

__all__ = [
    "BEAT",
    "CALLED",
    "CLUSTER",
    "ENDED",
    "EXPIRE",
    "FAILED",
    "FIND",
    "FORGET_INSTANCES",
    "INSERT",
    "LEAVE",
    "NOTIFY",
    "OVERDUE",
    "RELEASE",
    "TAKE_OVER",
    "UPDATE",
]


def _unnest(columns: dict[str, str]) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns.values(), start=1))
    return f"unnest({arrays}) AS x ({', '.join(columns)})"


def _of(alias: str) -> str:
    """Return the columns that a record is read from, of the table with this alias."""
    return COLUMNS.format(j=alias)


#: New jobs. A row whose id, token or key another one has is left out. The last parameter is this instance.
INSERT: Final = f"""
INSERT INTO proxy_jobs (id, token_hash, key, key_held, fingerprint, origin, owner, profile, state, submitted,
    accepted_at, deadline_at, finished_at, code, detail, failure_submitted, callback, says_failed, early, duplicates,
    outputs, labels, refused, refusal, content_type, error, instance, worker_end, cancelled_by, trail, sent)
SELECT id, token_hash, key, key IS NOT NULL AND NOT (callback IS NULL AND failure_submitted IS NOT DISTINCT FROM 'no'
        AND state = 'finished'),
    fingerprint, origin, owner, profile, state, submitted, now() - make_interval(secs => age_s),
    now() + make_interval(secs => left_s), now() - make_interval(secs => ended_s), code, detail, failure_submitted,
    callback, says_failed, early, duplicates, outputs, labels, refused, refusal, content_type, error, instance,
    worker_end, cancelled_by, trail, sent
FROM {_unnest(INSERTED)}
ON CONFLICT DO NOTHING RETURNING id
"""  # noqa: S608 - our own names

#: A callback came after the end, and proves that the job was submitted.
_PROVES: Final = "x.op = 'note' AND x.failure_submitted = 'yes' AND j.failure_submitted IS NOT NULL"

#: What is learnt of known jobs. `op` says what is expected of the row, which is skipped otherwise: see protocol.py. By
#: their letters, the states of an open job stand in the order in which it has them. The last parameter: this instance.
UPDATE: Final = f"""
WITH locked AS MATERIALIZED (SELECT id FROM proxy_jobs WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE)
UPDATE proxy_jobs j SET
    state = CASE WHEN x.ends THEN 'finished' WHEN j.finished_at IS NULL THEN greatest(j.state, x.state)
        ELSE j.state END,
    submitted = CASE WHEN x.op = 'callback' THEN 'yes' WHEN x.op = 'failure' THEN coalesce(x.failure_submitted, 'yes')
        WHEN {_PROVES} THEN 'yes' WHEN x.op = 'cancel' OR j.finished_at IS NOT NULL THEN j.submitted
        WHEN greatest(j.state, x.state) = 'waiting' THEN 'yes'
        WHEN greatest(j.state, x.state) = 'submitting' THEN 'unknown' ELSE j.submitted END,
    finished_at = CASE WHEN x.ends THEN coalesce(j.finished_at, now() - make_interval(secs => x.ended_s))
        ELSE j.finished_at END,
    detail = CASE WHEN x.ends AND j.code IS NULL THEN x.detail ELSE j.detail END,
    failure_submitted = CASE WHEN x.ends AND j.code IS NULL AND x.code IS NOT NULL
        THEN CASE WHEN x.op = 'cancel' THEN j.submitted ELSE x.failure_submitted END
        WHEN {_PROVES} THEN 'yes' ELSE j.failure_submitted END,
    key_held = j.key_held AND NOT (x.op IN ('failure', 'cancel')
        AND CASE WHEN x.op = 'cancel' THEN j.submitted ELSE x.failure_submitted END IS NOT DISTINCT FROM 'no'),
    code = CASE WHEN x.ends THEN coalesce(j.code, x.code) ELSE j.code END,
    callback = coalesce(j.callback, x.callback),
    says_failed = CASE WHEN x.op = 'callback' THEN x.says_failed ELSE j.says_failed END,
    early = CASE WHEN x.op = 'callback' THEN x.early ELSE j.early END,
    content_type = CASE WHEN x.op = 'callback' THEN x.content_type ELSE j.content_type END,
    error = CASE WHEN x.error <> '' THEN x.error ELSE j.error END,
    outputs = CASE WHEN x.outputs <> '' THEN x.outputs ELSE j.outputs END,
    worker_end = CASE WHEN x.worker_end <> '' THEN x.worker_end ELSE j.worker_end END,
    cancelled_by = CASE WHEN x.op IN ('failure', 'cancel') THEN x.cancelled_by ELSE j.cancelled_by END,
    trail = CASE WHEN x.trail <> '' THEN x.trail ELSE j.trail END,
    duplicates = greatest(j.duplicates, x.duplicates),
    refused = greatest(j.refused, x.refused),
    refusal = CASE WHEN x.refused > j.refused THEN x.refusal ELSE j.refusal END
FROM {_unnest(UPDATED)}, locked
WHERE locked.id = j.id AND x.id = j.id AND CASE x.op WHEN 'note' THEN true WHEN 'callback' THEN j.callback IS NULL
    WHEN 'cancel' THEN j.finished_at IS NULL ELSE j.owner = ${len(UPDATED) + 1} AND j.finished_at IS NULL END
RETURNING j.id
"""  # noqa: S608 - our own names

#: A key is free again once its job is certain not to have been submitted, which the update sees to, or is forgotten.
#: $1: keys; $2: after how many seconds a job is forgotten.
RELEASE: Final = """
UPDATE proxy_jobs SET key_held = false
WHERE id IN (SELECT id FROM proxy_jobs WHERE key_held AND key = ANY ($1::bytea[])
    AND finished_at < now() - make_interval(secs => $2) ORDER BY id FOR UPDATE)
"""

_REMEMBERED: Final = "(j.finished_at IS NULL OR j.finished_at > now() - make_interval(secs => $2))"
#: $1: what is looked for; $2: after how many seconds a job is forgotten. The last job that was begun with a key has it.
FIND: Final = {
    "id": f"SELECT {_of('j')} FROM proxy_jobs j WHERE j.id = ANY ($1::text[]) AND {_REMEMBERED}",  # noqa: S608
    "token_hash": (
        f"SELECT {_of('j')} FROM proxy_jobs j WHERE j.token_hash = ANY ($1::bytea[]) AND {_REMEMBERED}"  # noqa: S608
    ),
    "key": f"SELECT {_of('j')} FROM proxy_jobs j WHERE j.key = ANY ($1::bytea[]) AND {_REMEMBERED} ORDER BY j.n",  # noqa: S608
}
#: By any name, the newest: all that are open, and those that finished last. $1: what is looked for, as a value; $2:
#: after how many seconds a job is forgotten; $3, $4: the first of the ids, and the first after them; $5: how many of
#: each are looked at.
CALLED: Final = f"""
SELECT {_of("j")} FROM (
    (SELECT id, n, labels, outputs FROM proxy_jobs WHERE finished_at IS NULL LIMIT $5)
    UNION ALL
    (SELECT id, n, labels, outputs FROM proxy_jobs WHERE finished_at > now() - make_interval(secs => $2)
        ORDER BY finished_at DESC LIMIT $5)) recent JOIN proxy_jobs j ON j.id = recent.id
WHERE strpos(recent.labels, $1) > 0 OR strpos(recent.outputs, $1) > 0 OR (recent.id >= $3 AND recent.id < $4)
ORDER BY recent.n DESC LIMIT 10
"""  # noqa: S608 - our own names
#: Those that ended last without a result. $1: after how many seconds a job is forgotten; $2: how many at most.
FAILED: Final = f"""
SELECT {_of("j")} FROM (SELECT id, finished_at FROM proxy_jobs WHERE finished_at > now() - make_interval(secs => $1)
    ORDER BY finished_at DESC LIMIT {FAILURES_AMONG}) recent JOIN proxy_jobs j ON j.id = recent.id
WHERE (j.code IS NOT NULL OR j.says_failed) AND coalesce(octet_length(j.callback), 0) <= {SMALL_BYTES}
ORDER BY recent.finished_at DESC LIMIT $2
"""  # noqa: S608 - our own names
#: Of these jobs, those that have ended.
ENDED: Final = f"SELECT {_of('j')} FROM proxy_jobs j WHERE j.id = ANY ($1::text[]) AND j.finished_at IS NOT NULL"  # noqa: S608

#: Tell instances ($1) of jobs ($2). Not in the transaction that wrote: a NOTIFY holds a lock of the whole server until
#: its commit, and a commit that waits for the disk would let everybody wait in turn.
NOTIFY: Final = "SELECT pg_notify('proxy_' || w, i) FROM unnest($1::text[], $2::text[]) AS t (w, i)"

BEAT: Final = """
INSERT INTO proxy_instances (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET beat_at = now()
"""
LEAVE: Final = "DELETE FROM proxy_instances WHERE id = $1"
#: How many instances have a lease ($1: its seconds), and the age of the oldest beat among those and those that left
#: open jobs.
CLUSTER: Final = """
SELECT count(*) FILTER (WHERE i.beat_at > now() - make_interval(secs => $1)),
    coalesce(max(extract(epoch FROM now() - i.beat_at)), 0)::float8
FROM proxy_instances i WHERE i.beat_at > now() - make_interval(secs => $1)
    OR EXISTS (SELECT FROM proxy_jobs j WHERE j.owner = i.id AND j.finished_at IS NULL)
"""
#: Those of instances ($1: seconds without a beat) that left nothing open.
FORGET_INSTANCES: Final = """
DELETE FROM proxy_instances i WHERE i.beat_at < now() - make_interval(secs => $1)
    AND NOT EXISTS (SELECT FROM proxy_jobs j WHERE j.owner = i.id AND j.finished_at IS NULL)
"""
#: Open jobs of instances whose last beat is older than a lease ($2), or that have left, are this one's ($1) now. Nobody
#: but who began a job ever submits it: one that certainly was not submitted has ended. $3: the words for that. Not if
#: its own last beat is older than $4: a server that was stopped carries this out before anybody could say he lives.
TAKE_OVER: Final = f"""
WITH gone AS MATERIALIZED (
    SELECT j.id FROM proxy_jobs j LEFT JOIN proxy_instances i ON i.id = j.owner
    WHERE j.finished_at IS NULL AND j.owner <> $1 AND (i.id IS NULL OR i.beat_at < now() - make_interval(secs => $2))
        AND EXISTS (SELECT FROM proxy_instances WHERE id = $1 AND beat_at > now() - make_interval(secs => $4))
    ORDER BY j.id LIMIT 200 FOR UPDATE OF j SKIP LOCKED)
UPDATE proxy_jobs j SET owner = $1,
    state = CASE WHEN j.state = 'accepted' THEN 'finished' ELSE j.state END,
    finished_at = CASE WHEN j.state = 'accepted' THEN now() END,
    key_held = j.key_held AND j.state <> 'accepted',
    code = CASE WHEN j.state = 'accepted' THEN 'interrupted' END,
    detail = CASE WHEN j.state = 'accepted' THEN $3 ELSE j.detail END,
    failure_submitted = CASE WHEN j.state = 'accepted' THEN 'no' END
FROM gone WHERE j.id = gone.id RETURNING {_of("j")}
"""  # noqa: S608 - our own names
#: Whose deadline is over for so long has nobody who sees to it, whatever its lease says. Nobody writes over this.
OVERDUE: Final = f"""
UPDATE proxy_jobs j SET state = 'finished', finished_at = now(), code = 'interrupted', detail = $1,
    failure_submitted = j.submitted, key_held = j.key_held AND j.submitted <> 'no'
WHERE j.id IN (SELECT id FROM proxy_jobs WHERE finished_at IS NULL AND deadline_at < now() - interval '2 s'
    ORDER BY id LIMIT 200 FOR UPDATE SKIP LOCKED)
RETURNING {_of("j")}
"""  # noqa: S608 - our own names
#: $1: after how many seconds a job is forgotten; $2: how many at most.
EXPIRE: Final = """
DELETE FROM proxy_jobs WHERE id IN (SELECT id FROM proxy_jobs WHERE finished_at < now() - make_interval(secs => $1)
    ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id
"""
