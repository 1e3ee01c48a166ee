"""Several instances of this proxy on one PostgreSQL, on this machine, under load: the cost of sharing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from bench.contenders.table import Contender
from bench.load import keep_busy
from bench.measures import Instances, percentile
from bench.processes import cpu_s, descendants, private_bytes
from bench.session import Proxy, Session
from bench.ticks import Ticks, ticking
from cluster.postgresql import PostgreSQL, PostgreSQLError

__all__ = ["run_instances"]

#: The number of clients in all, distributed over the instances.
_CLIENTS: Final = 24
#: The number of jobs to find out how fast they are.
_WARM_UP: Final = 4 * _CLIENTS


async def run_instances(session: Session, contender: Contender, *, count: int, seconds: float) -> list[Instances]:
    """Let `count` instances run jobs of 0 s for about `seconds`."""
    results: list[Instances] = []
    async with session.attempt(f"{count} instances"), contextlib.AsyncExitStack() as stack:
        try:
            database = stack.enter_context(PostgreSQL())
        except PostgreSQLError as exc:
            session.say(f"not measured: {exc}")
            return []
        all_ticks = [Ticks(f"lag-{number}") for number in range(count)]
        proxies = [
            await stack.enter_async_context(
                session.running(ticking(contender), {"JOURNAL": database.url(), **ticks.settings})
            )
            for ticks in all_ticks
        ]
        took_s, _ = await _load(proxies, _WARM_UP)
        jobs = max(_WARM_UP, int(_WARM_UP / took_s * seconds))
        await session.settle()
        used_s, database_s = sum(proxy.cpu_s() for proxy in proxies), cpu_s(database.pids[0])
        took_s, span = await _load(proxies, jobs)
        memory = sum(_family_bytes(proxy.pid) for proxy in proxies)
        database_bytes = _family_bytes(database.pids[0])
        await session.settle()
        lags_ms = [lag for ticks in all_ticks for lag in ticks.within([span])]
        result = Instances(
            instances=count,
            jobs_per_s=jobs / took_s,
            cpu_ms_per_job=(sum(proxy.cpu_s() for proxy in proxies) - used_s) * 1000 / jobs,
            database_cpu_ms_per_job=(cpu_s(database.pids[0]) - database_s) * 1000 / jobs,
            bytes_per_instance=memory / count,
            database_bytes_per_instance=database_bytes / count,
            loop_p99_ms=percentile(lags_ms, 99),
        )
        session.say(
            f"{result.jobs_per_s:8.1f} jobs/s {result.cpu_ms_per_job:8.2f} ms CPU/job and"
            f" {result.database_cpu_ms_per_job:.2f} ms of the database, {result.bytes_per_instance / 1e6:.0f} MB each;"
            f" loop p99 {result.loop_p99_ms:.1f} ms"
        )
        results.append(result)
    return results


async def _load(proxies: list[Proxy], jobs: int) -> tuple[float, tuple[float, float]]:
    """Let them share `jobs` jobs; return the seconds, and the start and the end by the monotonic clock."""
    each, clients = jobs // len(proxies), _CLIENTS // len(proxies)
    started = time.monotonic()
    await asyncio.gather(*(keep_busy(proxy.url, jobs=each, clients=clients) for proxy in proxies))
    ended = time.monotonic()
    return ended - started, (started, ended)


def _family_bytes(pid: int) -> int:
    return sum(private_bytes(one) or 0 for one in (pid, *descendants(pid)))
