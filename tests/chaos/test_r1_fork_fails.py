"""R1: no worker can be forked."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.support.harness import Chaos, Reply
from tests.chaos.support.processes import FaultyProxy
from tests.support.waiting import eventually


@pytest.fixture
def faulty_proxy(harmed_proxy: FaultyProxy) -> FaultyProxy:
    """A proxy with few spares, so that they are soon used up."""
    return harmed_proxy


@pytest.mark.xdist_group("r1 and r3")
async def test_r1_fork_that_fails_refuses_new_jobs_and_heals(chaos: Chaos) -> None:
    """While fork() fails with EAGAIN: 503 `no-worker` within a second; running jobs end well; later it recovers."""
    running = [asyncio.ensure_future(chaos.job(duration=1.2, chaos="note@p3")) for _ in range(3)]
    await chaos.act_of_any(3)
    marker = chaos.proxy.folder / "no-fork"
    with chaos.flock.may_get(503):
        marker.touch()
        refused: list[Reply] = []
        while len(refused) < 3:
            reply = await chaos.job()
            assert reply.status in {200, 503}
            assert reply.own_s < 1
            if reply.status == 503:
                refused.append(reply)
        assert {reply.summary for reply in refused} == {(503, "no-worker", "no")}
        assert all(int(reply.answer.headers["Retry-After"]) >= 1 for reply in refused)
        assert {reply.status for reply in await asyncio.gather(*running)} == {200}
        watch = chaos.proxy.stopwatch()
        marker.unlink()
        await eventually(lambda: _taken(chaos), 2, watch)
        await chaos.flock.land()


async def _taken(chaos: Chaos) -> bool:
    return (await chaos.job()).status == 200
