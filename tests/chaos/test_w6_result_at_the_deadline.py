"""W6: results that arrive at the deadline."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply

JOBS = 1_000
#: As many a second as two cores can start workers for, with a reserve; or as many as the job's duration allows.
_EVERY_S = 0.015
_SELDOM_S = 0.25
_AT_ONCE = 4
_SPREAD_S = 0.005
#: How long the job server takes for a canary's job.
_CANARY_S = 0.05


@pytest.mark.timeout(420)  # a thousand jobs, each to its deadline
@pytest.mark.hasty
async def test_w6_result_within_5_ms_of_the_deadline_a_thousand_times(chaos: Chaos) -> None:
    """Each client gets exactly one answer: the result, or `deadline-exceeded` with `yes`."""
    rng = random.Random(6)
    first_s = await _transit(chaos)

    def transit_s() -> float:
        """Return how long the way to the job server and back takes at present, according to the canaries."""
        canaries = chaos.flock.replies[-3:]
        return sorted(reply.took_s for reply in canaries)[len(canaries) // 2] - _CANARY_S if canaries else first_s

    async def one() -> Reply:
        # The result is due when the job server has accepted the job, some time after the deadline's clock began.
        delay = max(0.0, TIMEOUT_S - transit_s() + rng.uniform(-_SPREAD_S, _SPREAD_S))
        return await chaos.job(fault="late", delay=delay)

    tasks = []
    for _ in range(JOBS):
        tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(min(_SELDOM_S, max(_EVERY_S, transit_s() / _AT_ONCE)))
    counts = Counter(reply.summary for reply in await asyncio.gather(*tasks))
    assert sum(counts.values()) == JOBS
    assert {code for _, code, _ in counts} == {None, "deadline-exceeded"}, counts


async def _transit(chaos: Chaos) -> float:
    """Return how long a job of zero duration takes: the way to the job server and back."""
    replies = [await chaos.job(duration=0) for _ in range(5)]
    return sorted(reply.took_s for reply in replies)[2]
