"""R6: ten times the admitted load. The long soak is in test_soak.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.chaos.support.harness import Chaos, Reply
from tests.chaos.support.processes import FaultyProxy, StartProxy

_ADMITTED = 20
_ROUNDS = 4


@pytest.fixture(scope="module")
def faulty_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy that admits few jobs."""
    with start_proxy(MAX_JOBS=str(_ADMITTED), WORKER_SPARES="4") as proxy:
        yield proxy


async def test_r6_ten_times_the_load(chaos: Chaos) -> None:
    """Excess jobs get 503 within 100 ms, accepted ones 200; memory does not grow."""
    with chaos.flock.may_get(503):
        await _round(chaos)
        before = chaos.proxy.memory_bytes()
        slowest = [await _round(chaos) for _ in range(_ROUNDS)]
        assert max(slowest) < 0.1
        assert chaos.proxy.memory_bytes() - before < 8 * 1024 * 1024
        await chaos.flock.land()


async def _round(chaos: Chaos) -> float:
    """Send ten times the load; return how long the slowest refusal took."""
    taken = [asyncio.ensure_future(chaos.job(duration=0.5)) for _ in range(_ADMITTED)]
    await asyncio.sleep(0)
    excess: list[Reply] = []
    while not all(job.done() for job in taken):
        excess += await asyncio.gather(*(chaos.job() for _ in range(4)))
        if len(excess) >= 9 * _ADMITTED:
            break
    refused = [reply for reply in [*excess, *await asyncio.gather(*taken)] if reply.status == 503]
    assert {reply.summary for reply in refused} == {(503, "overloaded", "no")}
    return max(reply.own_s for reply in refused)
