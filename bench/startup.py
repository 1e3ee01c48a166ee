"""The time from `python run.py` to the first job's answer, and what an idle proxy uses."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from bench.contenders.table import Contender
from bench.load import Client, send_job
from bench.measures import Idle
from bench.processes import live_cpu_s
from bench.session import Session

__all__ = ["run_idle", "run_startup"]

#: How long to wait after the start until everything has settled.
_CALM_S: Final = 3.0


async def run_startup(session: Session, contender: Contender, *, times: int) -> list[float]:
    """Start the proxy with its embedded job server and send a job of 0 s once it prints its address; `times` times."""
    results: list[float] = []
    for number in range(times):
        async with (
            session.attempt(f"start-up {number + 1}/{times}  {contender.name}"),
            session.running(contender, {"JOB_SERVER_URL": ""}) as proxy,
        ):
            client = Client(proxy.url)
            await send_job(client, proxy.url, {"account": "example", "duration": 0})
            results.append(time.monotonic() - proxy.process.started)
            client.close()
            session.say(f"{results[-1]:.3f} s to the first job's answer")
    return results


async def run_idle(session: Session, contender: Contender, *, seconds: float) -> list[Idle]:
    """Measure the CPU of a proxy with its spares ready, after its first job."""
    results: list[Idle] = []
    async with session.attempt(f"idle  {contender.name}"), session.running(contender) as proxy:
        client = Client(proxy.url)
        await send_job(client, proxy.url, {"account": "example"})
        client.close()
        await asyncio.sleep(_CALM_S)
        before_s, started = live_cpu_s(proxy.pid), time.monotonic()
        await asyncio.sleep(seconds)
        used_s, took_s = live_cpu_s(proxy.pid) - before_s, time.monotonic() - started
        result = Idle(contender=contender.name, seconds=took_s, cpu_percent=100 * used_s / took_s)
        session.say(f"{result.cpu_percent:.3f} % of a core over {took_s:.0f} s")
        results.append(result)
    return results
