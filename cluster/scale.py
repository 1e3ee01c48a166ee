"""`python -m cluster.scale`: jobs per second against the number of instances.

On one machine all instances share its CPUs, so each may run only a few jobs at a time (MAX_JOBS): then twice the
instances do twice the jobs, unless the machine is the bottleneck. The last column says whether it was.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import psutil

from cluster.options import Options
from cluster.running import Cluster

__all__ = ["main"]

_WARM_S = 3.0
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one number of instances."""

    instances: int
    jobs_per_s: float
    #: Milliseconds of CPU per job.
    instances_ms: float
    database_ms: float
    #: The share of the machine's CPU time that was used.
    busy: float
    wal_bytes_per_job: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m cluster.scale", description=__doc__, allow_abbrev=False)
    parser.add_argument("--instances", default="1,2,3,6", metavar="N,N", help="how many, in turn (%(default)s)")
    parser.add_argument("--max-jobs", type=int, default=4, metavar="N", help="what each admits (%(default)s)")
    parser.add_argument("--duration", type=float, default=0.5, metavar="SECONDS", help="of a job (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (%(default)s)")
    given = parser.parse_args(argv)
    os.environ |= {"MAX_JOBS": str(given.max_jobs), "WORKER_SPARES": str(given.max_jobs), "LOG_LEVEL": "error"}
    print(f"MAX_JOBS={given.max_jobs}, a job takes {given.duration:g} s, {os.cpu_count()} processors\n")
    print("| Instances | Jobs/s | Of linear | CPU a job: instances | database | WAL a job | Machine busy |")
    print("|---|---|---|---|---|---|---|")
    one = 0.0
    for count in map(int, given.instances.split(",")):
        with Cluster(Options(instances=count, port=0, duration_s=given.duration)) as cluster:
            row = asyncio.run(_measure(cluster, count * given.max_jobs, given.seconds))
        one = one or row.jobs_per_s / count
        print(
            f"| {count} | {row.jobs_per_s:.1f} | {row.jobs_per_s / count / one:.2f} | {row.instances_ms:.1f} ms "
            f"| {row.database_ms:.2f} ms | {row.wal_bytes_per_job:.0f} bytes | {row.busy:.0%} |",
            flush=True,
        )
    return 0


async def _measure(cluster: Cluster, clients: int, seconds: float) -> Row:
    done = 0
    over = False
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client(number: int) -> None:
            nonlocal done
            while not over:
                async with session.post(f"{cluster.url}/queueJob", json={"account": f"a{number}"}) as answer:
                    await answer.read()
                    done += answer.status == _OK

        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        await asyncio.sleep(_WARM_S)
        before, done_before = _used(cluster), done
        await asyncio.sleep(seconds)
        after, jobs = _used(cluster), done - done_before
        over = True
        await asyncio.gather(*tasks)
    at, own_s, database_s, busy, wal = (b - a for a, b in zip(before, after, strict=True))
    return Row(
        instances=len(cluster.instances),
        jobs_per_s=jobs / at,
        instances_ms=1_000 * own_s / jobs,
        database_ms=1_000 * database_s / jobs,
        busy=busy / at / (os.cpu_count() or 1),
        wal_bytes_per_job=wal / jobs,
    )


def _used(cluster: Cluster) -> tuple[float, float, float, float, float]:
    """Return the time, the CPU seconds of the instances, the database and the machine, and the bytes of WAL."""
    machine = psutil.cpu_times()
    return (
        time.monotonic(),
        sum(_cpu_s(instance.pid) for instance in cluster.instances),
        sum(_cpu_s(pid) for pid in cluster.database.pids[:1]),
        machine.user + machine.system + machine.nice + machine.irq + machine.softirq,
        float(cluster.database.sql("SELECT pg_current_wal_lsn() - '0/0'")),
    )


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all its descendants, including ended ones."""
    total = 0.0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    sys.exit(main())
