"""The event loop's lag while many jobs arrive at once: by a timer inside, and by `GET /healthz` from outside."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from bench.contenders.table import Contender
from bench.in_flight import until_held
from bench.load import fire, send
from bench.measures import Lag, LargeCallbacks, percentile
from bench.processes import ROOT
from bench.session import Session
from bench.ticks import Ticks, ticking

__all__ = ["run_lag", "run_large_callbacks"]

_QUIET_S: Final = 1.0
#: The number of large callbacks at once, and the size of each.
_CALLBACKS: Final = 100
_LARGE_BYTES: Final = (1 << 20) - 1024  # including its head, it is within MAX_BODY_BYTES


async def run_lag(session: Session, contender: Contender, *, jobs: int, times: int) -> list[Lag]:
    """Send `jobs` jobs of 0 s at once while a probe runs; `times` times, each with a new proxy."""
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
    ticks = Ticks()
    async with session.running(ticking(contender), {"MAX_JOBS": str(2 * jobs), **ticks.settings}) as proxy:
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
            output, _ = await probe.communicate(b"")  # closes its standard input, which ends it
    probes: list[tuple[float, float]] = json.loads(output)
    # The connections are opened before the burst; the quiet time ends well before that.
    quiet = [took_s * 1000 for due, took_s in probes if due < probes[0][0] + _QUIET_S / 2]
    burst = [took_s * 1000 for due, took_s in probes if load.started <= due <= load.started + load.took_s]
    loop = ticks.within([(load.started, load.started + load.took_s)])
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


async def run_large_callbacks(session: Session, contender: Contender, *, times: int) -> list[LargeCallbacks]:
    """Let 100 jobs end at once, each with a result of 1 MiB; `times` times."""
    results: list[LargeCallbacks] = []
    ticks = Ticks()
    settings = {"JOB_TIMEOUT": "120", **ticks.settings}
    async with session.attempt("large callbacks"), session.running(ticking(contender), settings) as proxy:
        document: dict[str, object] = {"account": "example", "hold": True, "bytes": _LARGE_BYTES}
        spans = []
        for _ in range(times):
            await session.settle()
            load = asyncio.create_task(fire(proxy.url, jobs=_CALLBACKS, document=document))
            await until_held(session, _CALLBACKS, load)
            released = time.monotonic()
            await send("POST", f"{session.job_server.url}/release")
            answered = await load
            spans.append((released, answered.started + answered.took_s))
        for begin, end in spans:
            loop = ticks.within([(begin, end)])
            results.append(
                LargeCallbacks(
                    callbacks=_CALLBACKS,
                    bytes_each=_LARGE_BYTES,
                    took_s=end - begin,
                    loop_p50_ms=percentile(loop, 50),
                    loop_p99_ms=percentile(loop, 99),
                    loop_max_ms=max(loop),
                )
            )
        session.say("loop p99 " + "  ".join(f"{one.loop_p99_ms:.1f}" for one in results) + " ms")
    return results
