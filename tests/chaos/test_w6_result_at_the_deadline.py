"""W6: results that come as the deadline does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply
from tests.support.waiting import eventually

JOBS = 1_000
#: As many a second as two cores start workers for, with room for others.
_EVERY_S = 0.015
_SPREAD_S = 0.005
#: Where others need the processors, canaries are late first: with more of them under way, no more jobs are sent.
_FLYING = 3


@pytest.mark.timeout(300)  # a thousand jobs, each to its deadline
@pytest.mark.hasty
async def test_w6_result_within_5_ms_of_the_deadline_a_thousand_times(chaos: Chaos) -> None:
    """Each client gets exactly one answer: the result, or `deadline-exceeded` with `yes`."""
    rng = random.Random(6)
    # The result is due when the job server has taken the job, some milliseconds after the deadline's clock began.
    transit_s = await _transit(chaos)

    async def one() -> Reply:
        delay = TIMEOUT_S - transit_s + rng.uniform(-_SPREAD_S, _SPREAD_S)
        return await chaos.job(fault="late", delay=delay)

    tasks = []
    for _ in range(JOBS):
        tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(_EVERY_S)
        await eventually(lambda: chaos.flock.flying <= _FLYING)
    counts = Counter(reply.summary for reply in await asyncio.gather(*tasks))
    assert sum(counts.values()) == JOBS
    assert {code for _, code, _ in counts} == {None, "deadline-exceeded"}, counts


async def _transit(chaos: Chaos) -> float:
    """Return how long a job that takes no time takes: the way to the job server and back."""
    replies = [await chaos.job(duration=0) for _ in range(5)]
    return sorted(reply.took_s for reply in replies)[2]
