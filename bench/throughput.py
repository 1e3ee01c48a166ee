"""How many jobs a second, at what cost: each contender under the same load, in turn, over several rounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from bench.contenders.table import Contender
from bench.load import keep_busy
from bench.measures import Round, percentile
from bench.processes import cpu_s
from bench.session import Proxy, Session

__all__ = ["run_rounds"]

#: Waves of clients' jobs that a measurement has at least, so that its end weighs little.
_WAVES: Final = 2


async def run_rounds(
    session: Session, contenders: Sequence[Contender], *, rounds: int, clients: int, seconds: float
) -> list[Round]:
    """Measure every contender `rounds` times; every other round in the opposite order, against drift."""
    results = []
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            async with session.attempt(f"round {number + 1}/{rounds}  {contender.name:14}"):
                async with session.running(contender) as proxy:
                    result = await _measure(session, number, contender, proxy, clients=clients, seconds=seconds)
                results.append(result)
                session.say(
                    f"{result.jobs_per_s:8.1f} jobs/s {result.cpu_ms_per_job:8.2f} ms CPU/job"
                    f"  p50 {result.p50_ms:7.1f} ms  p99 {result.p99_ms:7.1f} ms  ({result.jobs} jobs)"
                )
    return results


async def _measure(
    session: Session, number: int, contender: Contender, proxy: Proxy, *, clients: int, seconds: float
) -> Round:
    """Warm the contender up, then measure as many jobs as take about `seconds`."""
    warm_up = await keep_busy(proxy.url, jobs=clients, clients=clients)
    if warm_up.took_s < seconds / 4:
        jobs = int(clients / warm_up.took_s * seconds / 5) + 1
        warm_up = await keep_busy(proxy.url, jobs=jobs, clients=clients)
    jobs = max(int(len(warm_up.answers) / warm_up.took_s * seconds), _WAVES * clients)
    await session.settle()
    load_s, server_s, contender_s = time.process_time(), session.job_server_cpu_s(), cpu_s(proxy.pid)
    load = await keep_busy(proxy.url, jobs=jobs, clients=clients)
    load_s = time.process_time() - load_s
    await session.settle()
    latencies_ms = [answer.latency_s * 1000 for answer in load.answers]
    return Round(
        number=number,
        contender=contender.name,
        jobs=jobs,
        jobs_per_s=jobs / load.took_s,
        cpu_ms_per_job=(cpu_s(proxy.pid) - contender_s) * 1000 / jobs,
        p50_ms=percentile(latencies_ms, 50),
        p99_ms=percentile(latencies_ms, 99),
        load_cpu_ms_per_job=load_s * 1000 / jobs,
        job_server_cpu_ms_per_job=(session.job_server_cpu_s() - server_s) * 1000 / jobs,
    )
