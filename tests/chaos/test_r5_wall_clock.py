"""R5: the wall clock is set an hour forward, and an hour back.

The machine's clock is not changed: `time.time` in the front end and in the workers reads one that moves.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos


@pytest.mark.parametrize("shift_s", [3600, -3600])
@pytest.mark.hasty
async def test_r5_wall_clock_moves_by_an_hour(chaos: Chaos, shift_s: int) -> None:
    """Deadlines and pauses follow the monotonic clock: within a second of their nominal length."""
    clock = chaos.proxy.folder / "clock"
    doomed = [asyncio.ensure_future(chaos.job(fault="never", chaos="note@p3")) for _ in range(3)]
    await chaos.act_of_any(3)
    clock.write_text(str(shift_s))
    try:
        begun = asyncio.ensure_future(chaos.job(fault="hang"))
        retried = await chaos.job(fault="refuse-first")
        for reply in [*await asyncio.gather(*doomed), await begun]:
            assert reply.code == "deadline-exceeded"
            assert reply.took_s > TIMEOUT_S - 0.5
            assert reply.own_s < TIMEOUT_S + 1
        assert retried.status == 200
        assert (await chaos.job(duration=0.5)).status == 200
    finally:
        clock.unlink()
