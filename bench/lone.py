"""The time that the proxy adds to a job when there is one job at a time and a spare is ready."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Final

from bench.contenders.table import Contender
from bench.load import Client, send_job
from bench.measures import Lone, percentile
from bench.session import Session

__all__ = ["run_lone"]

#: Seconds between two jobs, at random, so that it does not match any rhythm of the proxy.
_PAUSE_S: Final = (0.02, 0.05)


async def run_lone(
    session: Session, contenders: Sequence[Contender], *, jobs: int, durations_s: Sequence[float]
) -> list[Lone]:
    """Send `jobs` jobs of each duration to each contender, one after the other."""
    results: list[Lone] = []
    for contender in contenders:
        for duration_s in durations_s:
            async with session.attempt(f"lone {duration_s:g} s job  {contender.name}"):
                result = await _measure(session, contender, jobs, duration_s)
                session.say(f"adds p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms")
                results.append(result)
    return results


async def _measure(session: Session, contender: Contender, jobs: int, duration_s: float) -> Lone:
    pauses = random.Random(0)
    added_ms = []
    async with session.running(contender) as proxy:
        client = Client(proxy.url)
        warm_up = max(3, jobs // 10)
        for number in range(warm_up + jobs):
            await asyncio.sleep(pauses.uniform(*_PAUSE_S))
            answer = await send_job(client, proxy.url, {"account": "example", "duration": duration_s})
            if number >= warm_up:
                added_ms.append(answer.latency_s * 1000 - json.loads(answer.body)["took_ms"])
        client.close()
    return Lone(
        contender=contender.name,
        duration_s=duration_s,
        jobs=jobs,
        p50_ms=percentile(added_ms, 50),
        p99_ms=percentile(added_ms, 99),
    )
