"""A proxy that lets pebble run each job in a process of its own (`pebble.concurrent.process`).

With pebble's defaults, processes are forked from this one, which is fast but not safe, because this one has threads.
"""

from __future__ import annotations

import asyncio
from multiprocessing.queues import Queue
from typing import Any

from pebble import concurrent

from bench.contenders.process_proxy import run
from bench.contenders.submission import TIMEOUT_S, run_job

run_in_process = concurrent.process(timeout=TIMEOUT_S)(run_job)


async def run_job_in_pebble(job: dict[str, Any], inbox: Queue[bytes]) -> bytes:
    """Run the job, without blocking the event loop while its process starts."""
    future = await asyncio.to_thread(run_in_process, job, inbox)
    result: bytes = await asyncio.wrap_future(future)
    return result


if __name__ == "__main__":
    run(run_job_in_pebble)
