"""How late the event loop is while many jobs arrive at once: by a timer inside, and by `GET /healthz` from outside."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Final

from bench.contenders.table import Contender
from bench.load import fire
from bench.measures import Lag, percentile
from bench.processes import LOGS, ROOT
from bench.session import Session

__all__ = ["run_lag"]

_QUIET_S: Final = 1.0


async def run_lag(session: Session, contender: Contender, *, jobs: int, times: int) -> list[Lag]:
    """Send `jobs` jobs of 0 s at once while a probe asks, `times` times, each with a proxy of its own."""
    results: list[Lag] = []
    for number in range(times):
        async with session.attempt(f"loop lag {number + 1}/{times}  {contender.name}"):
            result = await _measure(session, contender, jobs)
            session.say(
                f"loop p99 {result.loop_p99_ms:.1f} ms, max {result.loop_max_ms:.1f} ms;"
                f" healthz p99 {result.p99_ms:.1f} ms, p50 {result.p50_ms:.1f} ms, max {result.max_ms:.1f} ms"
                f" (before: p99 {result.quiet_p99_ms:.1f} ms); {jobs} jobs in {result.took_s:.2f} s"
            )
            results.append(result)
    return results


async def _measure(session: Session, contender: Contender, jobs: int) -> Lag:
    ticking = replace(contender, command=(sys.executable, "-m", "bench.ticking"))
    lag_file = LOGS / "lag.txt"
    async with session.running(ticking, {"MAX_JOBS": str(2 * jobs), "LAG_FILE": str(lag_file)}) as proxy:
        await session.settle()
        probe = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.probe",
            f"{proxy.process.url}/healthz",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await asyncio.sleep(_QUIET_S)
            load = await fire(proxy.url, jobs=jobs, document={"account": "example"})
        finally:
            output, _ = await probe.communicate(b"")  # ends its standard input, and so its work
    probes: list[tuple[float, float]] = json.loads(output)
    # Opening the connections comes before the burst; the quiet time is what lies well before that.
    quiet = [took_s * 1000 for due, took_s in probes if due < probes[0][0] + _QUIET_S / 2]
    burst = [took_s * 1000 for due, took_s in probes if load.started <= due <= load.started + load.took_s]
    ticks = [tuple(map(float, line.split())) for line in lag_file.read_text(encoding="ascii").splitlines()]
    loop = [lag_s * 1000 for due, lag_s in ticks if load.started <= due <= load.started + load.took_s]
    return Lag(
        loop_p50_ms=percentile(loop, 50),
        loop_p99_ms=percentile(loop, 99),
        loop_max_ms=max(loop),
        jobs=jobs,
        took_s=load.took_s,
        p50_ms=percentile(burst, 50),
        p99_ms=percentile(burst, 99),
        max_ms=max(burst),
        quiet_p99_ms=percentile(quiet, 99),
    )
