"""The statements on the table of jobs. Each may be executed twice without harm, because its condition says what it
expects.

All times are the database's; `_at` and `record_of` convert them from and to ours. Several rows are always locked in
the order of their ids, or two instances could deadlock.

A put is one row: `PUTS` has one statement for each line of the table in protocol.py. All rows of a batch are one
transaction (wire.py). One statement for many rows, with an array for each column, is more expensive below some 16 rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final

from proxy.store.fields import FAILURES_AMONG, SMALL_BYTES
from proxy.store.postgresql.rows import COLUMNS, COLUMNS_WITHOUT_BODIES, SAME_CLOCK_S, VALUES

__all__ = [
    "ABOUT",
    "BEAT",
    "CALLED",
    "CANCELLED",
    "CLUSTER",
    "DELETE",
    "ENDED",
    "END_OVERDUE",
    "EXPIRE",
    "FAILED",
    "FIND",
    "FORGET_INSTANCES",
    "GONE",
    "INSTANCES",
    "LEAVE",
    "LOST",
    "NAMED",
    "NOTIFY",
    "OVERDUE",
    "PIECE",
    "PIECE_BYTES",
    "PUTS",
    "RELEASE",
    "SEEN_TO",
    "TAKE_CANCELLED",
    "TAKE_OVER",
    "UNSURE",
]


_NAME: Final = re.compile(r":(\w+)")


class RowStatement:
    """A statement that writes one row, in which `:name` is a value of `VALUES`, and its parameters."""

    def __init__(self, sql: str) -> None:
        names = list(dict.fromkeys(_NAME.findall(sql)))
        places = {name: f"${number}::{VALUES[name]}" for number, name in enumerate(names, start=1)}
        #: The statement with the server's placeholders.
        self.sql: Final = _NAME.sub(lambda found: places[found[1]], sql)
        #: Selects the statement's parameters from the values of a job.
        self.parameters: Final[Callable[[Mapping[str, Any]], tuple[Any, ...]]] = itemgetter(*names)


def _of(alias: str) -> str:
    """Return the columns that a record is read from, with this alias of the table."""
    return COLUMNS.format(j=alias)


def _at(name: str) -> str:
    """Return the instant in the database's clock of a time in ours."""
    is_same = f"abs(extract(epoch FROM now()) - :now) < {SAME_CLOCK_S}"
    return f"CASE WHEN {is_same} THEN to_timestamp(:{name}) ELSE now() + make_interval(secs => :{name} - :now) END"


#: A new job, unless another one has its id, its token or its key.
_INSERT: Final = f"""
INSERT INTO proxy_jobs (id, token_hash, key, key_held, fingerprint, origin, owner, profile, state, submitted,
    accepted_at, deadline_at, finished_at, code, detail, failure_submitted, callback, says_failed, early, duplicates,
    outputs, labels, refused, refusal, content_type, error, instance, worker_end, cancelled_by, trail, sent)
VALUES (:id, :token_hash, :key, :key IS NOT NULL AND NOT (:callback IS NULL
        AND :failure_submitted IS NOT DISTINCT FROM 'no' AND :state = 'finished'),
    :fingerprint, :origin, :owner, :profile, :state, :submitted,
    {_at("accepted_at")}, {_at("deadline_at")}, {_at("finished_at")}, :code, :detail, :failure_submitted, :callback,
    :says_failed, :early, :duplicates, :outputs, :labels, :refused, :refusal, :content_type, :error,
    :instance, :worker_end, :cancelled_by, :trail, :sent)
ON CONFLICT DO NOTHING RETURNING owner, code
"""  # noqa: S608 - our own names
#: The additions that every update makes.
_ADDS: Final = """
    error = CASE WHEN :error <> '' THEN :error ELSE error END,
    outputs = CASE WHEN :outputs <> '' THEN :outputs ELSE outputs END,
    worker_end = CASE WHEN :worker_end <> '' THEN :worker_end ELSE worker_end END,
    trail = CASE WHEN :trail <> '' THEN :trail ELSE trail END,
    duplicates = greatest(duplicates, :duplicates),
    refused = greatest(refused, :refused),
    refusal = CASE WHEN :refused > refused THEN :refusal ELSE refusal END
"""
#: A callback that came after the end proves that the job was submitted.
_PROVES: Final = ":failure_submitted = 'yes' AND failure_submitted IS NOT NULL"
#: An open job moves forward, never back: its states are in alphabetical order.
_GOES_ON: Final = f"""
UPDATE proxy_jobs SET
    state = CASE WHEN finished_at IS NULL THEN greatest(state, :open_state) ELSE state END,
    failure_submitted = CASE WHEN {_PROVES} THEN 'yes' ELSE failure_submitted END,
    submitted = CASE WHEN {_PROVES} THEN 'yes' WHEN finished_at IS NOT NULL THEN submitted
        WHEN greatest(state, :open_state) = 'waiting' THEN 'yes'
        WHEN greatest(state, :open_state) = 'submitting' THEN 'unknown' ELSE submitted END, {_ADDS}
WHERE id = :id"""  # noqa: S608 - our own names
#: The statements, by what putting a record does to the existing row (`operation` in rows.py). If it was written, each
#: returns a row with the current owner and the failure's code.
PUTS: Final = {
    "insert": RowStatement(_INSERT),
    "note": RowStatement(f"{_GOES_ON} RETURNING owner, code"),
    "open": RowStatement(f"{_GOES_ON} AND owner = :me AND finished_at IS NULL RETURNING owner, code"),
    "callback": RowStatement(f"""
UPDATE proxy_jobs SET state = 'finished', submitted = 'yes',
    finished_at = coalesce(finished_at, {_at("finished_at")}, now()),
    code = coalesce(code, :code), detail = CASE WHEN code IS NULL THEN :detail ELSE detail END,
    failure_submitted = CASE WHEN code IS NULL THEN :failure_submitted ELSE failure_submitted END,
    callback = :callback, says_failed = :says_failed, early = :early, content_type = :content_type, {_ADDS}
WHERE id = :id AND callback IS NULL RETURNING owner, code"""),  # noqa: S608 - our own names
    "failure": RowStatement(f"""
UPDATE proxy_jobs SET state = 'finished', submitted = coalesce(:failure_submitted, 'yes'),
    finished_at = coalesce({_at("finished_at")}, now()), code = :code, detail = :detail,
    failure_submitted = :failure_submitted, cancelled_by = :cancelled_by,
    key_held = key_held AND :failure_submitted IS DISTINCT FROM 'no', {_ADDS}
WHERE id = :id AND owner = :me AND finished_at IS NULL RETURNING owner, code"""),  # noqa: S608 - our own names
    "cancel": RowStatement(f"""
UPDATE proxy_jobs SET state = 'finished', finished_at = coalesce({_at("finished_at")}, now()),
    code = :code, detail = :detail, failure_submitted = submitted, cancelled_by = :cancelled_by,
    key_held = key_held AND submitted <> 'no', {_ADDS}
WHERE id = :id AND finished_at IS NULL RETURNING owner, code"""),  # noqa: S608 - our own names
}


#: A key is free again once its job certainly was not submitted (the updates above free it then), or is forgotten.
#: $1: keys; $2: after how many seconds a job is forgotten.
RELEASE: Final = """
UPDATE proxy_jobs SET key_held = false
WHERE id IN (SELECT id FROM proxy_jobs WHERE key_held AND key = ANY ($1::bytea[])
    AND finished_at < now() - make_interval(secs => $2) ORDER BY id FOR UPDATE)
"""

#: How much of a result is read at once, in bytes.
PIECE_BYTES: Final = 256 * 1024
#: A job with the first piece of its result, and the size of the whole.
_BEGINNING: Final = (
    _of("j").replace("j.callback", f"substr(j.callback, 1, {PIECE_BYTES})") + ", coalesce(octet_length(j.callback), 0)"
)
#: A further piece. $1: the job; $2: the number of the first byte, from one.
PIECE: Final = f"SELECT substr(callback, $2::int, {PIECE_BYTES}) FROM proxy_jobs WHERE id = $1"  # noqa: S608 - our own number
_REMEMBERED: Final = "(j.finished_at IS NULL OR j.finished_at > now() - make_interval(secs => $2))"
#: $1: the values to look for; $2: after how many seconds a job is forgotten. Of the jobs with a key, the one that holds
#: it comes last, or else the newest: one that was not submitted may have been recorded after the holder.
FIND: Final = {
    "id": f"SELECT {_BEGINNING} FROM proxy_jobs j WHERE j.id = ANY ($1::text[]) AND {_REMEMBERED}",  # noqa: S608
    "token_hash": (
        f"SELECT {_BEGINNING} FROM proxy_jobs j WHERE j.token_hash = ANY ($1::bytea[]) AND {_REMEMBERED}"  # noqa: S608
    ),
    "key": (
        f"SELECT {_BEGINNING} FROM proxy_jobs j WHERE j.key = ANY ($1::bytea[]) AND {_REMEMBERED} "  # noqa: S608
        "ORDER BY j.key_held, j.n"
    ),
    "beginning": (  # an id has no letter after f
        f"SELECT {_BEGINNING} FROM unnest($1::text[]) AS b JOIN proxy_jobs j ON j.id >= b AND j.id < b || 'g' "  # noqa: S608
        f"WHERE {_REMEMBERED} ORDER BY j.n"
    ),
}


def _named(condition: str) -> str:
    return f"""
SELECT {COLUMNS_WITHOUT_BODIES.format(j="j")} FROM (
    (SELECT id, n, labels, outputs, profile FROM proxy_jobs WHERE finished_at IS NULL LIMIT $3)
    UNION ALL
    (SELECT id, n, labels, outputs, profile FROM proxy_jobs WHERE finished_at > now() - make_interval(secs => $2)
        ORDER BY finished_at DESC LIMIT $3)) recent JOIN proxy_jobs j ON j.id = recent.id
WHERE {condition}
ORDER BY recent.n DESC LIMIT 10
"""  # noqa: S608 - our own names


#: Jobs with a name, among the open ones and those that finished last. $1: what their JSON contains; $2: after how many
#: seconds a job is forgotten; $3: how many of each are looked at. What people call a job; $4, $5: the bounds of the
#: ids, inclusive and exclusive.
CALLED: Final = _named(
    "strpos(recent.labels, $1) > 0 OR strpos(recent.outputs, $1) > 0 OR (recent.id >= $4 AND recent.id < $5)"
)
#: By an output; $4: the profile.
NAMED: Final = _named("strpos(recent.outputs, $1) > 0 AND recent.profile IN ($4, '')")
#: The last failed jobs. $1: after how many seconds a job is forgotten; $2: how many at most.
FAILED: Final = f"""
SELECT {_of("j")} FROM (SELECT id, finished_at FROM proxy_jobs WHERE finished_at > now() - make_interval(secs => $1)
    ORDER BY finished_at DESC LIMIT {FAILURES_AMONG}) recent JOIN proxy_jobs j ON j.id = recent.id
WHERE (j.code IS NOT NULL OR j.says_failed) AND coalesce(octet_length(j.callback), 0) <= {SMALL_BYTES}
ORDER BY recent.finished_at DESC LIMIT $2
"""  # noqa: S608 - our own names
#: The ids of those of these jobs that have ended.
ENDED: Final = "SELECT id FROM proxy_jobs WHERE id = ANY ($1::text[]) AND finished_at IS NOT NULL"

#: Notify instances ($1) of jobs ($2). Not in the transaction that wrote: a NOTIFY holds a lock on the whole server
#: until its commit, and a commit that waits for the disk would make all others wait.
NOTIFY: Final = "SELECT pg_notify('proxy_' || w, i) FROM unnest($1::text[], $2::text[]) AS t (w, i)"

#: How many seconds ago the last job ended that the tables may have lost: others were here before, or a backup, or an
#: instance that remembers jobs for less time.
LOST: Final = "SELECT extract(epoch FROM now() - lost_before)::float8 FROM proxy_meta"
#: The size of the table of jobs, and the first end among those that are remembered. $1: for how many seconds.
ABOUT: Final = """
SELECT pg_total_relation_size('proxy_jobs')::bigint, (SELECT extract(epoch FROM finished_at)::float8 FROM proxy_jobs
    WHERE finished_at > now() - make_interval(secs => $1) ORDER BY finished_at LIMIT 1)
"""
#: All instances that are not forgotten yet, with or without a valid lease.
INSTANCES: Final = """
SELECT id, name, extract(epoch FROM started_at)::float8, extract(epoch FROM now() - beat_at)::float8
FROM proxy_instances ORDER BY name, started_at LIMIT 100
"""

#: Renews the lease of this instance ($1; $2: its name); how long ago the last beat was, or NULL.
BEAT: Final = """
WITH last AS (SELECT beat_at FROM proxy_instances WHERE id = $1)
INSERT INTO proxy_instances (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET beat_at = now()
RETURNING (SELECT extract(epoch FROM now() - beat_at)::float8 FROM last)
"""
LEAVE: Final = "DELETE FROM proxy_instances WHERE id = $1"
#: How many instances have a valid lease ($1: its seconds), and the age of the oldest beat among these and the instances
#: that left open jobs.
CLUSTER: Final = """
SELECT count(*) FILTER (WHERE i.beat_at > now() - make_interval(secs => $1)),
    coalesce(max(extract(epoch FROM now() - i.beat_at)), 0)::float8
FROM proxy_instances i WHERE i.beat_at > now() - make_interval(secs => $1)
    OR EXISTS (SELECT FROM proxy_jobs j WHERE j.owner = i.id AND j.finished_at IS NULL)
"""
#: Delete instances without a beat ($1: for how many seconds) that left no open jobs.
FORGET_INSTANCES: Final = """
DELETE FROM proxy_instances i WHERE i.beat_at < now() - make_interval(secs => $1)
    AND NOT EXISTS (SELECT FROM proxy_jobs j WHERE j.owner = i.id AND j.finished_at IS NULL)
"""
#: How many jobs of other instances are taken over, or ended, by one statement.
SEEN_TO: Final = 200
#: Open jobs of instances whose last beat is older than a lease ($2), or that have left, and these instances; except $1.
GONE: Final = f"""
SELECT j.id, j.owner FROM proxy_jobs j LEFT JOIN proxy_instances i ON i.id = j.owner
WHERE j.finished_at IS NULL AND j.owner <> $1 AND (i.id IS NULL OR i.beat_at < now() - make_interval(secs => $2))
ORDER BY j.id LIMIT {SEEN_TO}
"""  # noqa: S608 - our own number
#: This instance ($3) takes over those of these jobs ($1) that still are open and of these instances ($2), unless these
#: have beaten meanwhile ($4: as $2 above). Only the instance that began a job ever submits it, so a job that certainly
#: was not submitted ends; $5: the detail. Does nothing if this instance's own last beat is older than $6: a server that
#: was paused executes this first, before any instance could renew its lease.
TAKE_OVER: Final = f"""
WITH gone AS MATERIALIZED (
    SELECT j.id FROM unnest($1::text[], $2::text[]) AS g (id, owner) JOIN proxy_jobs j ON j.id = g.id
    WHERE j.finished_at IS NULL AND j.owner = g.owner
        AND NOT EXISTS (SELECT FROM proxy_instances
            WHERE id = g.owner AND beat_at >= now() - make_interval(secs => $4))
        AND EXISTS (SELECT FROM proxy_instances WHERE id = $3 AND beat_at > now() - make_interval(secs => $6))
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
UPDATE proxy_jobs j SET owner = $3,
    state = CASE WHEN j.state = 'accepted' THEN 'finished' ELSE j.state END,
    finished_at = CASE WHEN j.state = 'accepted' THEN now() END,
    key_held = j.key_held AND j.state <> 'accepted',
    code = CASE WHEN j.state = 'accepted' THEN 'interrupted' END,
    detail = CASE WHEN j.state = 'accepted' THEN $5 ELSE j.detail END,
    failure_submitted = CASE WHEN j.state = 'accepted' THEN 'no' END
FROM gone WHERE j.id = gone.id RETURNING {_of("j")}
"""  # noqa: S608 - our own names
#: These jobs ($1), after an update of them whose answer was lost. Waits for it, as it may not have ended.
UNSURE: Final = f"""
SELECT {_of("j")} FROM proxy_jobs j WHERE j.id = ANY ($1::text[]) ORDER BY j.id FOR UPDATE OF j
"""  # noqa: S608 - our own names


def _cancelled(lease_s: str) -> str:
    return f"""
SELECT j.id FROM proxy_jobs j JOIN proxy_instances i ON i.id = j.owner
WHERE j.code = 'cancelled' AND j.callback IS NULL AND j.finished_at > i.beat_at
    AND j.finished_at > now() - make_interval(secs => 6 * {lease_s})
    AND i.beat_at < now() - make_interval(secs => {lease_s})
"""  # noqa: S608 - our own names


#: Jobs that were cancelled after the last beat of their instances, which are gone ($1: the seconds of a lease): nobody
#: has told the job server. Six leases later, that would not help any more.
CANCELLED: Final = f"""
{_cancelled("$1")} AND EXISTS (SELECT FROM proxy_instances  -- otherwise no job is looked at
    WHERE beat_at BETWEEN now() - make_interval(secs => 6 * $1) AND now() - make_interval(secs => $1))
ORDER BY j.id LIMIT {SEEN_TO}
"""
#: This instance ($3) takes over those of these jobs ($1) of which this is still true. $2: as above; $4: as $6 of
#: `TAKE_OVER`.
TAKE_CANCELLED: Final = f"""
UPDATE proxy_jobs j SET owner = $3
WHERE j.id IN ({_cancelled("$2")} AND j.id = ANY ($1::text[])
    AND EXISTS (SELECT FROM proxy_instances WHERE id = $3 AND beat_at > now() - make_interval(secs => $4))
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
RETURNING {_of("j")}
"""  # noqa: S608 - our own names
#: Jobs that are past their deadlines: their owners do not work, even if their leases are valid.
OVERDUE: Final = f"""
SELECT id FROM proxy_jobs WHERE finished_at IS NULL AND deadline_at < now() - interval '2 s' ORDER BY id LIMIT {SEEN_TO}
"""  # noqa: S608 - our own number
#: Ends those of these jobs ($1) that still are open; $2: the detail.
END_OVERDUE: Final = f"""
UPDATE proxy_jobs j SET state = 'finished', finished_at = now(), code = 'interrupted', detail = $2,
    failure_submitted = j.submitted, key_held = j.key_held AND j.submitted <> 'no'
WHERE j.id IN (SELECT id FROM proxy_jobs WHERE id = ANY ($1::text[]) AND finished_at IS NULL
    ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING {_of("j")}
"""  # noqa: S608 - our own names
DELETE: Final = "DELETE FROM proxy_jobs WHERE id = $1"
#: Deletes jobs, and notes until when they had ended: an instance may remember jobs for longer. $1: after how many
#: seconds a job is forgotten; $2: how many at most. Returns how many were deleted.
EXPIRE: Final = """
WITH expired AS (DELETE FROM proxy_jobs
    WHERE id IN (SELECT id FROM proxy_jobs WHERE finished_at < now() - make_interval(secs => $1)
        ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id),
noted AS (UPDATE proxy_meta SET lost_before = greatest(lost_before, now() - make_interval(secs => $1))
    WHERE EXISTS (SELECT FROM expired))
SELECT count(*)::int FROM expired
"""
