"""Jobs per second, and their cost: all contenders run, and are under the same load in turns, in short slices."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from bench.contenders.table import Contender
from bench.limits import limit_of
from bench.load import keep_busy
from bench.measures import Cores, Round, percentile
from bench.session import Proxy, Session

__all__ = ["run_rounds"]

#: The minimum number of waves of clients' jobs in a measurement, so that its end matters little.
_WAVES: Final = 2
#: For this part of a turn, a contender is under load before the measurement starts, as under a lasting load.
_LEAD_IN: Final = 0.25


async def run_rounds(
    session: Session, contenders: Sequence[Contender], *, rounds: int, clients: int, seconds: float, limit_s: float
) -> list[Round]:
    """Measure every contender `rounds` times, or as often as possible within `limit_s`.

    Every other round is in reverse order, against drift; slow contenders take part only in some rounds.
    """
    results = []
    async with contextlib.AsyncExitStack() as stack:
        turns = []
        for contender in contenders:
            async with session.attempt(f"start  {contender.name}"):
                proxy = await stack.enter_async_context(session.running(contender))
                at_once = min(clients, contender.most_clients)
                turn = _Turns(session, contender, proxy, clients=at_once, seconds=seconds)
                await turn.warm_up()
                turns.append(turn)
                session.say(f"{turn.jobs_per_s:8.1f} jobs/s to warm up")
        started = time.monotonic()
        for number in range(rounds):
            if number and time.monotonic() - started > limit_s:
                print(f"  {number} rounds: the time is up")
                break
            here = [turn for turn in turns if number % turn.every == 0]
            for turn in here if number % 2 == 0 else reversed(here):
                async with session.attempt(f"round {number + 1}/{rounds}  {turn.name}"):
                    result = await turn.take(number)
                    results.append(result)
                    session.say(
                        f"{result.jobs_per_s:8.1f} jobs/s {result.cpu_ms_per_job:8.2f} ms CPU/job"
                        f"  p50 {result.p50_ms:7.1f} ms  p99 {result.p99_ms:7.1f} ms  limit: {limit_of(result.cores)}"
                    )
    return results


class _Turns:
    """The turns of one contender; it is idle in those of the others."""

    def __init__(self, session: Session, contender: Contender, proxy: Proxy, *, clients: int, seconds: float) -> None:
        self.name = contender.name
        self.every = contender.every
        #: The rate of its last turn, from which the number of jobs of the next one is calculated.
        self.jobs_per_s = 0.0
        self._session = session
        self._proxy = proxy
        self._clients = clients
        self._seconds = seconds

    async def warm_up(self) -> None:
        """Run a few jobs, or more if it is fast."""
        load = await keep_busy(self._proxy.url, jobs=self._clients, clients=self._clients)
        if load.took_s < self._seconds:
            jobs = int(self._clients / load.took_s * self._seconds) + 1
            load = await keep_busy(self._proxy.url, jobs=jobs, clients=self._clients)
        self.jobs_per_s = len(load.answers) / load.took_s

    async def take(self, number: int) -> Round:
        """Measure about as many jobs as take `seconds`, in round `number`."""
        jobs = max(int(self.jobs_per_s * self._seconds), _WAVES * self._clients)
        await keep_busy(self._proxy.url, jobs=max(int(jobs * _LEAD_IN), self._clients), clients=self._clients)
        await self._session.settle()
        proxy, session = self._proxy, self._session
        before = _Used.by(session, proxy)
        load = await keep_busy(proxy.url, jobs=jobs, clients=self._clients)
        after = _Used.by(session, proxy)
        await session.settle()
        contender_s, database_s = proxy.cpu_s() - before.contender_s, proxy.database_cpu_s() - before.database_s
        self.jobs_per_s = jobs / load.took_s
        latencies_ms = [answer.latency_s * 1000 for answer in load.answers]
        return Round(
            number=number,
            contender=self.name,
            jobs=jobs,
            jobs_per_s=self.jobs_per_s,
            cpu_ms_per_job=contender_s * 1000 / jobs,
            database_cpu_ms_per_job=database_s * 1000 / jobs,
            p50_ms=percentile(latencies_ms, 50),
            p99_ms=percentile(latencies_ms, 99),
            cores=after.cores_since(before),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    """CPU seconds used up to a point in time."""

    at: float
    contender_s: float
    database_s: float
    event_loop_s: float
    fork_server_s: float
    job_server_s: float
    load_s: float

    @classmethod
    def by(cls, session: Session, proxy: Proxy) -> Self:
        return cls(
            at=time.monotonic(),
            contender_s=proxy.cpu_s(),
            database_s=proxy.database_cpu_s(),
            event_loop_s=proxy.event_loop_cpu_s(),
            fork_server_s=proxy.fork_server_cpu_s(),
            job_server_s=session.job_server_cpu_s(),
            load_s=time.process_time(),
        )

    def cores_since(self, before: Self) -> Cores:
        took_s = self.at - before.at
        event_loop_s, fork_server_s = self.event_loop_s - before.event_loop_s, self.fork_server_s - before.fork_server_s
        others_s = self.contender_s - before.contender_s - event_loop_s - fork_server_s
        return Cores(
            front_end=event_loop_s / took_s,
            fork_server=fork_server_s / took_s,
            workers=max(0.0, others_s) / took_s,
            job_server=(self.job_server_s - before.job_server_s) / took_s,
            load=(self.load_s - before.load_s) / took_s,
        )
