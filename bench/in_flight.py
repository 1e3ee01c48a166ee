"""Many jobs in flight at once, each in a process of its own; what a waiting worker and the front end hold in memory."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Final

from bench.contenders.table import Contender
from bench.load import Load, LoadError, fire, send
from bench.measures import InFlight, percentile
from bench.processes import command_line, descendants, private_bytes
from bench.session import Proxy, Session

__all__ = ["run_in_flight"]

_PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.1
#: Workers whose memory is read.
_SAMPLE: Final = 200


async def run_in_flight(session: Session, contender: Contender, *, jobs: int) -> list[InFlight]:
    """Have `jobs` jobs held by the job server at the same time, look, then let them end."""
    settings = {"MAX_JOBS": str(jobs), "JOB_TIMEOUT": str(2 * _PATIENCE_S)}
    results: list[InFlight] = []
    async with session.attempt(f"{jobs} jobs in flight"), session.running(contender, settings) as proxy:
        load = asyncio.create_task(fire(proxy.url, jobs=jobs, document={"account": "example", "hold": True}))
        started = time.monotonic()
        try:
            await _until_held(session, jobs, load)
            submitted_s = time.monotonic() - started
            await session.settle()
            result = await _look_and_release(session, proxy, submitted_s, load)
        finally:
            load.cancel()
            await send("POST", f"{session.job_server.url}/release")
        session.say(
            f"{result.workers} workers, all submitted after {submitted_s:.1f} s, all answered"
            f" {result.answered_s:.1f} s after release; a worker {result.worker_p50_bytes / 1e6:.2f} MB,"
            f" front end {result.front_end_bytes / 1e6:.0f} MB"
        )
        results.append(result)
    return results


async def _until_held(session: Session, jobs: int, load: asyncio.Task[Load]) -> None:
    held = 0
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while held < jobs:
                await asyncio.sleep(_LOOK_S)
                if load.done():
                    load.result()
                    raise LoadError("a job that was held was answered")
                held = json.loads(await send("GET", f"{session.job_server.url}/held"))["held"]
    except TimeoutError:
        raise LoadError(f"after {_PATIENCE_S:.0f} s only {held} jobs had been submitted") from None


async def _look_and_release(session: Session, proxy: Proxy, submitted_s: float, load: asyncio.Task[Load]) -> InFlight:
    workers = worker_pids(proxy.pid)
    sample = random.Random(0).sample(workers, min(len(workers), _SAMPLE))
    memory = [size for size in map(private_bytes, sample) if size is not None]
    front_end_bytes = private_bytes(proxy.pid) or 0
    released = time.monotonic()
    await send("POST", f"{session.job_server.url}/release")
    answered = await load
    return InFlight(
        jobs=len(answered.answers),
        workers=len(workers),
        submitted_s=submitted_s,
        answered_s=time.monotonic() - released,
        worker_p50_bytes=percentile(memory, 50),
        worker_p90_bytes=percentile(memory, 90),
        front_end_bytes=front_end_bytes,
    )


def worker_pids(front_end: int) -> list[int]:
    """Return the workers: the forks of a fork server that have no children, also those whose fork server is gone."""
    parents = {pid: parent for pid, (parent, _) in descendants(front_end).items()}
    has_children = set(parents.values())
    return [pid for pid in parents if pid not in has_children and b"worker" in command_line(pid)]
