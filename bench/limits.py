"""What limited a rate under load."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.measures import Cores, Round

__all__ = ["Reckoned", "limit_of", "reckon"]

#: From this share on, a core counts as fully used: the kernel and other programs use the rest.
_FULL: Final = 0.9


def limit_of(cores: Cores, machine: int | None = None) -> str:
    """Return what used up its core, or all cores; `machine`: the number of cores (default: here).

    Workers, and a contender's threads, run on all cores; everything else uses at most one core each.
    """
    machine = machine or len(os.sched_getaffinity(0))
    single = {
        "front end": cores.front_end,
        "fork server": cores.fork_server,
        "job server": cores.job_server,
        "load": cores.load,
    }
    name = max(single, key=single.__getitem__)
    used = sum(single.values()) + cores.workers
    if used >= _FULL * machine:
        most = "workers" if cores.workers >= single[name] else name
        return f"all {machine} cores, most of it the {most}"
    return f"one core: the {name}" if single[name] >= _FULL else "no core: it waits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoned:
    """The expected throughput of this project's proxy on more cores: calculated, not measured."""

    #: CPU per job: of the event loop, of the fork server, and of everything including the database.
    front_end_ms: float
    fork_server_ms: float
    all_ms: float

    @property
    def most_per_instance(self) -> float:
        """Jobs per second at which one instance uses up its front end's core, or its fork server's."""
        return 1000 / max(self.front_end_ms, self.fork_server_ms)

    @property
    def cores_per_instance(self) -> float:
        """How many cores one instance uses at that rate."""
        return self.most_per_instance * self.all_ms / 1000

    def instances_on(self, cores: int) -> int:
        """Return how many instances it takes to use all the cores."""
        return max(1, math.ceil(cores / self.cores_per_instance))

    def jobs_per_s_on(self, cores: int) -> float:
        """Return the jobs per second of that many instances, if nothing else is the limit."""
        return min(self.instances_on(cores) * self.most_per_instance, cores * 1000 / self.all_ms)


def reckon(rounds: Sequence[Round]) -> Reckoned:
    """Calculate from one contender's rounds, of which there is at least one."""
    return Reckoned(
        front_end_ms=statistics.median(1000 * one.cores.front_end / one.jobs_per_s for one in rounds),
        fork_server_ms=statistics.median(1000 * one.cores.fork_server / one.jobs_per_s for one in rounds),
        all_ms=statistics.median(one.cpu_ms_per_job for one in rounds),
    )
