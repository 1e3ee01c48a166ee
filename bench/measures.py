"""What comes out of the measurements, and the little arithmetic they need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Round", "Spread", "percentile", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One contender under load, once."""

    contender: str
    jobs: int
    jobs_per_s: float
    cpu_ms_per_job: float
    p50_ms: float
    p99_ms: float
    #: What the load and the job server used beside it, per job.
    load_cpu_ms_per_job: float
    job_server_cpu_ms_per_job: float


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
