"""Queries about many jobs and their answers, whatever store the jobs are in.

The time of a job is when it ended. An open job has not ended yet, and is in every range that reaches to now. So the
newest jobs are the open ones, then those that ended last.

A large store answers within `Limits`: a page or a count may cover only a part of the jobs, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from proxy.store.record import LEAST_CHARACTERS, Record
from shared.errors import Code
from shared.lifecycle import State

if TYPE_CHECKING:
    from shared.lifecycle import Submitted

__all__ = [
    "ANY",
    "USUAL",
    "Counts",
    "JobPage",
    "JobQuery",
    "Limits",
    "Position",
    "Sort",
    "code_of",
    "matches",
    "remembered",
    "within",
]

#: For `worker_end` and `cancelled_by`: any value but none.
ANY: Final = "any"
#: How many values of each facet are returned.
_VALUES: Final = 50


class Sort(StrEnum):
    """The order in which jobs are listed."""

    NEWEST = "newest"
    OLDEST = "oldest"
    #: Ended jobs only, by the time from acceptance to end.
    SLOWEST = "slowest"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """The conditions that a matching job meets, all of them. One that is empty or None is ignored."""

    #: The range of time, in Unix seconds: `since` is inclusive, `until` exclusive.
    since: float | None = None
    until: float | None = None
    states: frozenset[State] = frozenset()
    #: Whether the client was told, in the end or at first, that there is no result.
    failed: bool | None = None
    codes: frozenset[str] = frozenset()
    submitted: frozenset[Submitted] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Hashes of idempotency keys.
    keys: frozenset[bytes] = frozenset()
    profiles: frozenset[str] = frozenset()
    #: Names of the instance that accepted the job, or ids of the one that owns it.
    instances: frozenset[str] = frozenset()
    #: A value, or `ANY`.
    worker_end: str = ""
    cancelled_by: str = ""
    #: The beginning of an id, or a part of a job's texts.
    text: str = ""

    @property
    def wants_open(self) -> bool:
        """Whether an open job can match."""
        ends = self.of_failures or self.failed is False or bool(self.cancelled_by)
        return not ends and self.states != {State.FINISHED}

    @property
    def wants_ended(self) -> bool:
        """Whether an ended job can match."""
        return not self.states or State.FINISHED in self.states

    @property
    def of_failures(self) -> bool:
        """Whether only failed jobs can match."""
        return bool(self.failed) or bool(self.codes)

    @property
    def may_be_id(self) -> bool:
        """Whether the text may be the beginning of an id."""
        return len(self.text) >= LEAST_CHARACTERS and self.text.isalnum() and self.text.isascii()


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a page ends and the next one begins: after this job."""

    #: Whether it is among the open jobs, or else among the ended ones.
    is_open: bool
    #: When it was accepted, or ended, in Unix time; or, with `Sort.SLOWEST`, how long it took, in seconds.
    at: float
    #: The store's number of the job; at the edge of a search that ended early, above or below all numbers.
    number: int
    #: Of an open job, with `Sort.OLDEST`: the jobs that ended until then, in Unix time, came before.
    seen_to: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some jobs, in order; `callback` and `sent` are empty instead of the bodies."""

    records: Sequence[Record]
    #: Where the next page begins; None: there are no more.
    next: Position | None
    #: If the limits ended the search: how far it got, in Unix time.
    searched_to: float | None = None
    #: In that case, with `Sort.SLOWEST`: how many jobs were looked at, matching or not.
    looked_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one answer may take; at least one part of the jobs is always looked at."""

    seconds: float = 0.06
    #: How many jobs one statement looks at.
    part: int = 3_000
    #: How many jobs are counted at most.
    counted: int = 50_000


USUAL: Final = Limits()


class Counts:
    """How many jobs there are of each kind."""

    def __init__(self) -> None:
        self.total = 0
        self.by: dict[str, Counter[str]] = {
            name: Counter()
            for name in ("state", "outcome", "code", "submitted", "profile", "instance", "worker", "cancelled_by")
        }
        #: By the label's name.
        self.labels: dict[str, Counter[str]] = {}
        #: If the limits ended the count: since when jobs were counted, in Unix time.
        self.counted_to: float | None = None

    def add(self, kind: Sequence[str | None], jobs: int) -> None:
        """Count jobs of one kind: state, code, submitted, profile, instance, worker's end and canceller."""
        state, code, submitted, profile, instance, worker_end, cancelled_by = kind
        self.total += jobs
        outcome = "failed" if code else "succeeded" if state == State.FINISHED else None
        values = (state, outcome, code, submitted, profile, instance, worker_end, cancelled_by)
        for counter, value in zip(self.by.values(), values, strict=True):
            if value:
                counter[value] += jobs

    def add_labels(self, labels: Mapping[str, str], jobs: int) -> None:
        """Count jobs that have these labels."""
        for name, value in labels.items():
            self.labels.setdefault(name, Counter())[value] += jobs

    def add_record(self, record: Record) -> None:
        """Count one job."""
        kind = (
            record.state, code_of(record), record.submitted, record.profile, record.instance, record.worker_end,
            record.cancelled_by,
        )  # fmt: skip
        self.add(kind, 1)
        self.add_labels(record.labels, 1)

    def facets(self) -> dict[str, dict[str, int]]:
        """Return the most frequent values of each facet."""
        return {name: dict(counter.most_common(_VALUES)) for name, counter in self.by.items()}

    def label_facets(self) -> dict[str, dict[str, int]]:
        """Return the most frequent values of each label."""
        return {name: dict(counter.most_common(_VALUES)) for name, counter in self.labels.items()}


def code_of(record: Record) -> str | None:
    """Return the code of the failure that the client got, in the end or at first; None: no failure."""
    if record.failure is not None:
        return str(record.failure.code)
    return str(Code.JOB_FAILED) if record.says_failed else None


def matches(record: Record, query: JobQuery) -> bool:
    """Return whether a job matches, ignoring the range of time."""
    is_open = record.state is not State.FINISHED
    return (
        (query.wants_open if is_open else query.wants_ended)
        and (not query.states or record.state in query.states)
        and (query.failed is None or record.failed is query.failed)
        and (not query.codes or code_of(record) in query.codes)
        and (not query.submitted or record.submitted in query.submitted)
        and (not query.keys or record.key in query.keys)
        and (not query.profiles or record.profile in query.profiles)
        and (not query.instances or not query.instances.isdisjoint({record.instance, record.owner}))
        and all(record.labels.get(name) == value for name, value in query.labels.items())
        and _is_meant(query.worker_end, record.worker_end)
        and _is_meant(query.cancelled_by, record.cancelled_by)
        and (not query.text or _says(record, query))
    )


def remembered(query: JobQuery, since: float) -> JobQuery:
    """Return the query without jobs that ended before `since`, in Unix time: these are expired, if not yet deleted."""
    return query if query.since is not None and query.since >= since else replace(query, since=since)


def within(query: JobQuery, since: float, until: float) -> JobQuery:
    """Return the query restricted to this range of time."""
    first = since if query.since is None else max(since, query.since)
    return replace(query, since=first, until=until if query.until is None else min(until, query.until))


def _is_meant(wanted: str, value: str) -> bool:
    return not wanted or (bool(value) if wanted == ANY else value == wanted)


def _says(record: Record, query: JobQuery) -> bool:
    text = query.text.lower()
    if query.may_be_id and record.id.startswith(query.text):
        return True
    said = [record.error, *record.labels.values(), *record.outputs.values()]
    if record.failure is not None:
        said.append(record.failure.detail)
    return any(text in words.lower() for words in said)
