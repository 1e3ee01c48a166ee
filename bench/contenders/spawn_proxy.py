"""The naive proxy with isolation: `multiprocessing` spawns a process for each request."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from typing import Any

from bench.contenders.submission import run_job

# Spawn, not fork: this process has threads.
SPAWN = multiprocessing.get_context("spawn")
THREADS = ThreadPoolExecutor(max_workers=64)


def work(job: dict[str, Any], inbox: Queue[bytes], results: Connection) -> None:
    """Run the job in the process."""
    results.send(run_job(job, inbox))


def run_in_process(job: dict[str, Any], inbox: Queue[bytes]) -> bytes:
    """Start the process, get its result, wait for its end; blocks, so it runs in a thread."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=work, args=(job, inbox, theirs))
    process.start()
    theirs.close()
    result: bytes = ours.recv()
    process.join()
    return result


async def run_job_spawned(job: dict[str, Any], inbox: Queue[bytes]) -> bytes:
    """Do the above without blocking the event loop."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, run_in_process, job, inbox)


if __name__ == "__main__":
    from bench.contenders.process_proxy import run

    run(run_job_spawned, SPAWN)
