"""W3: a worker that runs out of memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.chaos.support.harness import Chaos


async def test_w3_worker_out_of_memory_is_the_one_that_goes(chaos: Chaos) -> None:
    """Under RLIMIT_AS an allocation fails: `worker-died`; the front end and every other worker go on."""
    replies = await asyncio.gather(*(chaos.job(chaos=f"memory@{phase}") for phase in ("p1", "p3", "p4")))
    assert [reply.summary for reply in replies] == [
        (500, "worker-died", "no"),
        (500, "worker-died", "yes"),
        (500, "worker-died", "yes"),
    ]


async def test_w3_kernel_takes_workers_before_the_front_end(chaos: Chaos) -> None:
    """When the machine itself runs out of memory, the kernel chooses a worker: their score is higher by 500."""

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))

    workers = [worker["pid"] for worker in await chaos.workers() if worker["state"] == "spare"]
    assert workers
    assert all(score(pid) >= score(chaos.proxy.pid) + 500 for pid in workers)
