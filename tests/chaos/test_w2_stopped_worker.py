"""W2: a worker that is stopped (SIGSTOP) in every phase of its job."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply
from tests.support.waiting import eventually

PHASES: dict[str, tuple[dict[str, object], str]] = {
    "p1": ({}, "no"),
    "p2": ({"fault": "hang"}, "unknown"),
    "p3": ({"duration": 1.0}, "yes"),
    "p4": ({}, "yes"),
    "p5": ({}, "yes"),
}


@pytest.mark.hasty
async def test_w2_worker_that_is_stopped_in_p1_to_p5(chaos: Chaos) -> None:
    """Its job ends at the deadline, and a second later the worker is killed and reaped."""

    async def case(phase: str) -> None:
        fields, submitted = PHASES[phase]
        reply = await chaos.job(chaos=f"sigstop@{phase}", **fields)
        assert reply.summary == (500, "deadline-exceeded", submitted), phase
        await _gone(chaos, chaos.proxy.act(reply.ref)["pid"])

    await asyncio.gather(*map(case, PHASES))


@pytest.mark.hasty
async def test_w2_worker_that_is_stopped_in_p0(chaos: Chaos) -> None:
    """A spare that was stopped before it got its job: the job server has nothing, and the worker is killed."""
    spare, job = await chaos.stop_a_spare_and_give_it_a_job()
    reply: Reply = await job
    assert reply.summary == (500, "deadline-exceeded", "no")
    assert reply.took_s > TIMEOUT_S - 0.05
    await _gone(chaos, spare)


async def _gone(chaos: Chaos, pid: int) -> None:
    """Wait until the worker of a job that was just answered is gone, for at most a second."""
    await eventually(lambda: not Path(f"/proc/{pid}").exists(), 1, chaos.proxy.stopwatch())
