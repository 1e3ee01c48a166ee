"""The targets of the benchmark, and what was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bench.fifty import WITH_SPARES
from bench.measures import Results, Round, Spread, spread

__all__ = ["TARGETS", "Reached", "Target", "Verdict", "ratios", "reached"]


#: The jobs in flight of the target for many jobs, which are also enough to measure workers' memory.
_MANY: Final = 4000
_ENOUGH: Final = 200


class Verdict(StrEnum):
    """How a figure compares with its target."""

    HOPED_FOR = "hoped for"
    REACHED = "reached"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table."""

    title: str
    #: How a number is written, for example `{:.1f} ms`.
    form: str
    at_least: float
    hoped_for: float
    #: The figures of a run, one for each repetition; none if it was not measured.
    figures: Callable[[Results], Iterable[float]]

    def verdict(self, figure: float) -> Verdict:
        """Compare a figure with the target. More is better if the hoped-for value is above the required one."""
        sign = 1 if self.hoped_for > self.at_least else -1
        if sign * figure >= sign * self.hoped_for:
            return Verdict.HOPED_FOR
        return Verdict.REACHED if sign * figure >= sign * self.at_least else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Reached:
    """A target and its result."""

    target: Target
    figure: Spread | None

    @property
    def verdict(self) -> Verdict:
        """How the median compares."""
        return Verdict.NOT_MEASURED if self.figure is None else self.target.verdict(self.figure.median)


def reached(results: Results) -> list[Reached]:
    """Return every target with the figure of this run."""
    found = []
    for target in TARGETS:
        figures = list(target.figures(results))
        found.append(Reached(target, spread(figures) if figures else None))
    return found


def ratios(rounds: Iterable[Round], ours: str, other: str) -> list[float]:
    """Return, for each round, the ratio of the jobs per second of `ours` to those of `other`."""
    jobs_per_s = {(one.number, one.contender): one.jobs_per_s for one in rounds}
    return [
        figure / jobs_per_s[number, other]
        for (number, name), figure in jobs_per_s.items()
        if name == ours and (number, other) in jobs_per_s
    ]


def _cost(results: Results, contender: str, without: str) -> list[float]:
    """Return, for each round, by how many per cent the jobs per second are lower than `without`; below 0 is noise."""
    return [100 * (1 - ratio) for ratio in ratios(results.rounds, contender, without)]


def _in_flight(results: Results) -> list[float]:
    """Return the largest number of jobs that were in flight at once, each in its own process, and all answered."""
    return [max((one.jobs for one in results.in_flight if one.workers >= one.jobs), default=0)]


def _spares_cost(results: Results) -> list[float]:
    """Return, for each pair, the ratio of the times for 50 jobs with and without more spares than jobs."""
    few = [one.total_s for one in results.fifty if one.way == "fresh"]
    many = [one.total_s for one in results.fifty if one.way == WITH_SPARES]
    return [after / before for before, after in zip(few, many, strict=False)]


TARGETS: Final = (
    Target(
        title="fresh process per job, jobs/s against Node.js worker thread per request",
        form="{:.1f} times",
        at_least=6,
        hoped_for=8,
        figures=lambda results: ratios(results.rounds, "fresh", "node"),
    ),
    Target(
        title="reused workers, jobs/s against the unisolated asyncio proxy on uvloop",
        form="{:.2f} times",
        at_least=1.0,
        hoped_for=1.2,
        figures=lambda results: ratios(results.rounds, "reused", "uvloop"),
    ),
    Target(
        title="the same, both keeping their connections to the job server",
        form="{:.2f} times",
        at_least=0.85,
        hoped_for=1.0,
        figures=lambda results: ratios(results.rounds, "reused+kept", "uvloop+kept"),
    ),
    Target(
        title="journal's cost in jobs/s, fresh process per job",
        form="{:.1f} %",
        at_least=6,
        hoped_for=3,
        figures=lambda results: _cost(results, "fresh+journal", "fresh"),
    ),
    Target(
        title="journal's cost in jobs/s, reused workers",
        form="{:.1f} %",
        at_least=6,
        hoped_for=3,
        figures=lambda results: _cost(results, "reused+journal", "reused"),
    ),
    Target(
        title="PostgreSQL's cost in jobs/s against the journal, fresh process per job",
        form="{:.1f} %",
        at_least=10,
        hoped_for=5,
        figures=lambda results: _cost(results, "fresh+postgresql", "fresh+journal"),
    ),
    Target(
        title="PostgreSQL's cost in jobs/s against the journal, reused workers",
        form="{:.1f} %",
        at_least=10,
        hoped_for=5,
        figures=lambda results: _cost(results, "reused+postgresql", "reused+journal"),
    ),
    Target(
        title="CPU per job, fresh, all processes",
        form="{:.1f} ms",
        at_least=9,
        hoped_for=6,
        figures=lambda results: [one.cpu_ms_per_job for one in results.rounds if one.contender == "fresh"],
    ),
    Target(
        title="50 jobs of 0.5 s through the proxy, in all",
        form="{:.3f} s",
        at_least=0.6,
        hoped_for=0.55,
        figures=lambda results: [one.total_s for one in results.fifty if one.way == "fresh"],
    ),
    Target(
        title="the same with 64 spares, against 8",
        form="{:.2f} times",
        at_least=1.0,
        hoped_for=0.95,
        figures=_spares_cost,
    ),
    Target(
        title="added to a lone job's own time, spare ready, p50",
        form="{:.1f} ms",
        at_least=6,
        hoped_for=4,
        figures=lambda results: [one.p50_ms for one in results.lone if one.contender == "fresh"],
    ),
    Target(
        title="CPU that a message of the queue adds to a job",
        form="{:.2f} ms",
        at_least=1.0,
        hoped_for=0.5,
        figures=lambda results: [one.added_ms for one in results.queue],
    ),
    Target(
        title="jobs in flight at once, each in its own process, all answered",
        form="{:,.0f}",
        at_least=2000,
        hoped_for=4000,
        figures=lambda results: _in_flight(results) if results.in_flight else [],
    ),
    Target(
        title="the most jobs in flight at once: all submitted after",
        form="{:.1f} s",
        at_least=20,
        hoped_for=12,
        figures=lambda results: [one.submitted_s for one in results.in_flight if one.jobs >= _MANY],
    ),
    Target(
        title="private memory of a waiting worker",
        form="{:.2f} MB",
        at_least=4,
        hoped_for=2.5,
        figures=lambda results: [one.worker_p50_bytes / 1e6 for one in results.in_flight if one.jobs >= _ENOUGH],
    ),
    Target(
        title="event loop lag while 500 jobs arrive at once, p99",
        form="{:.1f} ms",
        at_least=50,
        hoped_for=20,
        figures=lambda results: [one.loop_p99_ms for one in results.lag],
    ),
    Target(
        title="event loop lag while 100 callbacks of 1 MiB arrive at once, p99",
        form="{:.1f} ms",
        at_least=20,
        hoped_for=10,
        figures=lambda results: [one.loop_p99_ms for one in results.large_callbacks],
    ),
    Target(
        title="`python run.py` to first job answered (job of 0 s)",
        form="{:.2f} s",
        at_least=0.9,
        hoped_for=0.6,
        figures=lambda results: results.startup_s,
    ),
    Target(
        title="idle: CPU with spares ready",
        form="{:.2f} % of a core",
        at_least=0.5,
        hoped_for=0.1,
        figures=lambda results: [one.cpu_percent for one in results.idle],
    ),
)
