"""W6: results that arrive at the deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply

#: Thirty for each millisecond around the deadline, in which callback, deadline and answer overtake each other.
JOBS = 300
#: As many a second as two cores can start workers for, with a reserve; or as many as the job's duration allows.
_EVERY_S = 0.015
_SELDOM_S = 0.25
_AT_ONCE = 4
_SPREAD_S = 0.005
#: How long the job server takes for a canary's job.
_CANARY_S = 0.05


@pytest.mark.timeout(420)  # hundreds of jobs, each to its deadline
@pytest.mark.hasty
async def test_w6_result_within_5_ms_of_the_deadline_hundreds_of_times(chaos: Chaos) -> None:
    """Each client gets exactly one answer: the result, or `deadline-exceeded` with `yes`."""
    rng = random.Random(6)

    def transit_s() -> float:
        """Return how long the way to the job server and back takes at present, according to the canaries."""
        canaries = chaos.flock.replies[-3:]
        return sorted(reply.took_s for reply in canaries)[len(canaries) // 2] - _CANARY_S if canaries else _SELDOM_S

    async def one() -> Reply:
        return await chaos.job(fault="late", at=time.monotonic() + TIMEOUT_S + rng.uniform(-_SPREAD_S, _SPREAD_S))

    tasks = []
    for _ in range(JOBS):
        tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(min(_SELDOM_S, max(_EVERY_S, transit_s() / _AT_ONCE)))
    counts = Counter(reply.summary for reply in await asyncio.gather(*tasks))
    assert sum(counts.values()) == JOBS
    assert {code for _, code, _ in counts} == {None, "deadline-exceeded"}, counts
