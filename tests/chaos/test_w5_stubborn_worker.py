"""W5: a worker that does not exit, and one with a child."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.support.waiting import eventually


@pytest.mark.hasty
async def test_w5_worker_that_ignores_sigterm_and_worker_with_a_child(chaos: Chaos) -> None:
    """One second after the deadline, nothing is left of either: worker, child, the whole group."""
    watch = chaos.proxy.stopwatch()
    replies = await asyncio.gather(
        chaos.job(chaos="ignore-term@p3", fault="never"), chaos.job(chaos="child@p3", fault="never")
    )
    for reply in replies:
        assert reply.summary == (500, "deadline-exceeded", "yes")
    pids = [
        act[name]
        for reply in replies
        for act in chaos.proxy.acts_of(reply.ref)
        for name in ("pid", "child")
        if name in act
    ]
    assert len(set(pids)) == 3
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), TIMEOUT_S + 1, watch)


async def test_w5_child_of_a_worker_that_died_goes_with_it(chaos: Chaos) -> None:
    """The group is killed before the worker is reaped, whatever ended the worker."""
    reply = await chaos.job(chaos="child+sigkill@p3", duration=1.0)
    assert reply.summary == (500, "worker-died", "yes")
    (child,) = [act["child"] for act in chaos.proxy.acts_of(reply.ref) if "child" in act]
    await eventually(lambda: not Path(f"/proc/{child}").exists(), 1, chaos.proxy.stopwatch())
