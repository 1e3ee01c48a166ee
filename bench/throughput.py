"""How many jobs a second, at what cost: all contenders run, and take turns under the same load in short slices."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Final

from bench.contenders.table import Contender
from bench.load import keep_busy
from bench.measures import Round, percentile
from bench.session import Proxy, Session

__all__ = ["run_rounds"]

#: Waves of clients' jobs that a measurement has at least, so that its end weighs little.
_WAVES: Final = 2
#: So long, in parts of a turn, a contender works before it is measured: as it does under a load that lasts.
_LEAD_IN: Final = 0.25


async def run_rounds(
    session: Session, contenders: Sequence[Contender], *, rounds: int, clients: int, seconds: float
) -> list[Round]:
    """Measure every contender `rounds` times; every other round in the opposite order, against drift."""
    results = []
    async with contextlib.AsyncExitStack() as stack:
        turns = []
        for contender in contenders:
            async with session.attempt(f"start  {contender.name}"):
                proxy = await stack.enter_async_context(session.running(contender))
                turn = _Turns(session, contender, proxy, clients=clients, seconds=seconds)
                await turn.warm_up()
                turns.append(turn)
                session.say(f"{turn.jobs_per_s:8.1f} jobs/s to warm up")
        for number in range(rounds):
            for turn in turns if number % 2 == 0 else reversed(turns):
                async with session.attempt(f"round {number + 1}/{rounds}  {turn.name}"):
                    result = await turn.take(number)
                    results.append(result)
                    session.say(
                        f"{result.jobs_per_s:8.1f} jobs/s {result.cpu_ms_per_job:8.2f} ms CPU/job"
                        f"  p50 {result.p50_ms:7.1f} ms  p99 {result.p99_ms:7.1f} ms  ({result.jobs} jobs)"
                    )
    return results


class _Turns:
    """What one contender does in its turns; it is idle in those of the others."""

    def __init__(self, session: Session, contender: Contender, proxy: Proxy, *, clients: int, seconds: float) -> None:
        self.name = contender.name
        #: As it did last; its next turn has as many jobs as take it `seconds` then.
        self.jobs_per_s = 0.0
        self._session = session
        self._proxy = proxy
        self._clients = clients
        self._seconds = seconds

    async def warm_up(self) -> None:
        """Do a few jobs, or more if it is fast."""
        load = await keep_busy(self._proxy.url, jobs=self._clients, clients=self._clients)
        if load.took_s < self._seconds:
            jobs = int(self._clients / load.took_s * self._seconds) + 1
            load = await keep_busy(self._proxy.url, jobs=jobs, clients=self._clients)
        self.jobs_per_s = len(load.answers) / load.took_s

    async def take(self, number: int) -> Round:
        """Measure as many jobs as take about `seconds`, in round `number`."""
        jobs = max(int(self.jobs_per_s * self._seconds), _WAVES * self._clients)
        await keep_busy(self._proxy.url, jobs=max(int(jobs * _LEAD_IN), self._clients), clients=self._clients)
        await self._session.settle()
        load_s, server_s = time.process_time(), self._session.job_server_cpu_s()
        contender_s, database_s = self._proxy.cpu_s(), self._proxy.database_cpu_s()
        load = await keep_busy(self._proxy.url, jobs=jobs, clients=self._clients)
        load_s = time.process_time() - load_s
        await self._session.settle()
        self.jobs_per_s = jobs / load.took_s
        latencies_ms = [answer.latency_s * 1000 for answer in load.answers]
        return Round(
            number=number,
            contender=self.name,
            jobs=jobs,
            jobs_per_s=self.jobs_per_s,
            cpu_ms_per_job=(self._proxy.cpu_s() - contender_s) * 1000 / jobs,
            database_cpu_ms_per_job=(self._proxy.database_cpu_s() - database_s) * 1000 / jobs,
            p50_ms=percentile(latencies_ms, 50),
            p99_ms=percentile(latencies_ms, 99),
            load_cpu_ms_per_job=load_s * 1000 / jobs,
            job_server_cpu_ms_per_job=(self._session.job_server_cpu_s() - server_s) * 1000 / jobs,
        )
