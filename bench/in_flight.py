"""Many jobs in flight at once, each in a process of its own: how the cost grows with their number."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.contenders.table import Contender
from bench.load import Load, LoadError, fire, send
from bench.measures import InFlight, percentile
from bench.processes import command_line, descendants, private_bytes
from bench.session import Proxy, Session
from bench.ticks import Ticks, ticking

__all__ = ["run_in_flight", "until_held", "worker_pids"]

_PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.02
#: Workers whose memory is read.
_SAMPLE: Final = 200
#: With fewer jobs in flight, there are several waves, so that there are this many jobs in all.
_JOBS: Final = 300


@dataclass(slots=True)
class _Waves:
    """The figures of the waves so far."""

    submitted_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    #: The spans in which the proxy was busy, by the monotonic clock.
    busy: list[tuple[float, float]] = field(default_factory=list)
    workers: int = 0
    memory: list[int] = field(default_factory=list)
    front_end_bytes: int = 0


async def run_in_flight(session: Session, contender: Contender, *, jobs: int) -> list[InFlight]:
    """Let the job server hold `jobs` jobs at the same time, measure, then let them end."""
    ticks = Ticks()
    settings = {"MAX_JOBS": str(jobs), "JOB_TIMEOUT": str(2 * _PATIENCE_S), **ticks.settings}
    results: list[InFlight] = []
    async with session.attempt(f"{jobs} in flight"), session.running(ticking(contender), settings) as proxy:
        count = max(1, _JOBS // jobs)
        await session.settle()
        waves = _Waves()
        idle_bytes, used_s = private_bytes(proxy.pid) or 0, proxy.cpu_s()
        for _ in range(count):
            await _wave(session, proxy, jobs, waves)
        await session.settle()
        lags_ms = ticks.within(waves.busy)
        result = InFlight(
            jobs=jobs,
            waves=count,
            workers=waves.workers,
            submitted_s=sum(waves.submitted_s) / count,
            answered_s=sum(waves.answered_s) / count,
            worker_p50_bytes=percentile(waves.memory, 50),
            worker_p90_bytes=percentile(waves.memory, 90),
            idle_front_end_bytes=idle_bytes,
            front_end_bytes=waves.front_end_bytes,
            cpu_ms_per_job=(proxy.cpu_s() - used_s) * 1000 / (jobs * count),
            loop_p99_ms=percentile(lags_ms, 99) if lags_ms else 0.0,
        )
        session.say(
            f"{result.jobs_per_s:8.1f} jobs/s {result.cpu_ms_per_job:8.2f} ms CPU/job, all submitted after"
            f" {result.submitted_s:.2f} s, all answered {result.answered_s:.2f} s after release;"
            f" a worker {result.worker_p50_bytes / 1e6:.2f} MB, front end {result.front_end_bytes / 1e6:.0f} MB;"
            f" loop p99 {result.loop_p99_ms:.1f} ms"
        )
        results.append(result)
    return results


async def _wave(session: Session, proxy: Proxy, jobs: int, waves: _Waves) -> None:
    load = asyncio.create_task(fire(proxy.url, jobs=jobs, document={"account": "example", "hold": True}))
    try:
        held_at = await until_held(session, jobs, load)
        waves.workers = _look(proxy, waves)
        released = time.monotonic()
        await send("POST", f"{session.job_server.url}/release")
        answered = await load
    finally:
        load.cancel()
        await send("POST", f"{session.job_server.url}/release")
    ended = answered.started + answered.took_s
    waves.submitted_s.append(held_at - answered.started)
    waves.answered_s.append(ended - released)
    waves.busy += [(answered.started, held_at), (released, ended)]


async def until_held(session: Session, jobs: int, load: asyncio.Task[Load]) -> float:
    """Return the monotonic instant at which the last job was submitted. Raises LoadError."""
    found = {"held": 0, "last": 0.0}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while found["held"] < jobs:
                await asyncio.sleep(_LOOK_S)
                if load.done():
                    load.result()
                    raise LoadError("a job that was held was answered")
                found = json.loads(await send("GET", f"{session.job_server.url}/held"))
    except TimeoutError:
        raise LoadError(f"after {_PATIENCE_S:.0f} s only {found['held']} jobs had been submitted") from None
    return found["last"]


def _look(proxy: Proxy, waves: _Waves) -> int:
    """Note the memory of some workers and of the front end; return how many workers there are."""
    workers = worker_pids(proxy.pid)
    sample = random.Random(0).sample(workers, min(len(workers), _SAMPLE))
    waves.memory += [size for size in map(private_bytes, sample) if size is not None]
    waves.front_end_bytes = private_bytes(proxy.pid) or 0
    return len(workers)


def worker_pids(front_end: int) -> Sequence[int]:
    """Return the workers: the forks of a fork server without children, including those whose fork server is gone."""
    parents = {pid: parent for pid, (parent, _) in descendants(front_end).items()}
    has_children = set(parents.values())
    return [pid for pid in parents if pid not in has_children and b"worker" in command_line(pid)]
