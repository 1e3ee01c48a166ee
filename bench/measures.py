"""The results of the measurements, and the little arithmetic that they need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Cores",
    "Fifty",
    "Idle",
    "InFlight",
    "Instances",
    "Lag",
    "LargeCallbacks",
    "Lone",
    "QueueCost",
    "Results",
    "Round",
    "Spread",
    "Tls",
    "percentile",
    "spread",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """How many cores each part of a contender used, on average."""

    #: The contender's first thread, which is its event loop if it has one.
    front_end: float
    #: The fork server of this project.
    fork_server: float
    #: The rest of the contender: workers, threads, its database.
    workers: float
    job_server: float
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One contender under load, once."""

    number: int
    contender: str
    jobs: int
    jobs_per_s: float
    #: Of all its processes including its database; and of its database alone.
    cpu_ms_per_job: float
    database_cpu_ms_per_job: float
    p50_ms: float
    p99_ms: float
    #: From the first request to the last answer.
    cores: Cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifty:
    """50 jobs of 0.5 s at once, once."""

    way: str
    total_s: float
    #: From the first request until the last job had been submitted; None if the job server does not report it.
    submitted_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """Many jobs in flight at the same time."""

    jobs: int
    #: The number of waves; the figures are of all waves together.
    waves: int
    #: Worker processes, each waiting for its callback, at the same moment.
    workers: int
    #: From the first request until the last job had been submitted.
    submitted_s: float
    #: From the release of all jobs until the last answer.
    answered_s: float
    #: Private memory of a worker: median and 90th percentile.
    worker_p50_bytes: float
    worker_p90_bytes: float
    #: Private memory of the front end, before the first job and with all jobs in flight.
    idle_front_end_bytes: int
    front_end_bytes: int
    #: Of all its processes.
    cpu_ms_per_job: float
    #: How late the event loop was while jobs came and were answered.
    loop_p99_ms: float

    @property
    def jobs_per_s(self) -> float:
        """Jobs per second of the time in which the proxy was busy with them."""
        return self.jobs / (self.submitted_s + self.answered_s)

    @property
    def bytes_per_job(self) -> float:
        """The memory of a worker, and of the front end for one job."""
        return self.worker_p50_bytes + (self.front_end_bytes - self.idle_front_end_bytes) / self.jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Several instances on one database, under load."""

    instances: int
    jobs_per_s: float
    #: Of all processes of the instances, and of the database.
    cpu_ms_per_job: float
    database_cpu_ms_per_job: float
    #: Private memory under load: of an instance's processes, and of the database's processes per instance.
    bytes_per_instance: float
    database_bytes_per_instance: float
    #: The event loops' lag.
    loop_p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lone:
    """One job at a time, on an idle proxy: what the proxy adds to the job's own time."""

    contender: str
    duration_s: float
    jobs: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCost:
    """One measurement of jobs that came as messages, and as many that came over HTTP at the same pace."""

    messages: int
    jobs_per_s: float
    #: CPU of all processes of the proxy per job that came as a message, and per job that came over HTTP.
    message_ms: float
    http_ms: float

    @property
    def added_ms(self) -> float:
        """What a message adds: receiving, replying and deleting, minus what HTTP costs instead."""
        return self.message_ms - self.http_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """One job at a time, and TLS to the job server."""

    contender: str
    #: Whether a reused worker keeps its connection.
    keep_alive: bool
    jobs: int
    #: Connections, each with its handshake, for these jobs.
    handshakes: int
    p50_ms: float
    p99_ms: float
    cpu_ms_per_job: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """One measurement of the event loop's lag while many jobs arrive at once."""

    jobs: int
    took_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    #: The same probe before the burst.
    quiet_p99_ms: float
    #: The lag of the loop itself during the burst, by a timer inside the proxy.
    loop_p50_ms: float
    loop_p99_ms: float
    loop_max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeCallbacks:
    """One measurement of the event loop's lag while large callbacks arrive at once."""

    callbacks: int
    bytes_each: int
    took_s: float
    loop_p50_ms: float
    loop_p99_ms: float
    loop_max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A proxy that has nothing to do."""

    contender: str
    seconds: float
    cpu_percent: float


@dataclass(slots=True, kw_only=True)
class Results:
    """A whole run."""

    #: What it ran on, and when.
    machine: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    fifty: list[Fifty] = field(default_factory=list)
    in_flight: list[InFlight] = field(default_factory=list)
    lone: list[Lone] = field(default_factory=list)
    queue: list[QueueCost] = field(default_factory=list)
    tls: list[Tls] = field(default_factory=list)
    lag: list[Lag] = field(default_factory=list)
    large_callbacks: list[LargeCallbacks] = field(default_factory=list)
    instances: list[Instances] = field(default_factory=list)
    startup_s: list[float] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over several rounds."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return median, lowest and highest of at least one value."""
    all_values = list(values)
    return Spread(median=statistics.median(all_values), low=min(all_values), high=max(all_values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is not exceeded by `percent` % of the values (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
