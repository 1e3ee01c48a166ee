"""W1: a worker that dies, in every way and in every phase of its job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from tests.chaos.support.harness import Chaos, Reply
from tests.support.waiting import eventually

DEATHS = ("sigkill", "sigsegv", "exit0", "exit1")
#: The job server in each phase: silent after the submission, or with a callback soon.
FIELDS: dict[str, dict[str, object]] = {
    "p1": {},
    "p2": {"fault": "hang"},
    "p3": {"duration": 1.0},
    "p4": {},
    "p5": {},
}
SUBMITTED = {"p1": "no", "p2": "unknown", "p3": "yes", "p4": "yes", "p5": "yes"}


@pytest.mark.parametrize("phase", FIELDS)
async def test_w1_worker_that_dies_in_this_phase(chaos: Chaos, phase: str) -> None:
    """Its job ends `worker-died` within a second, and says what the job server knows about it.

    In p1 nothing had left the worker: so a second and a third worker got the job, and all of them died.
    """
    replies = await asyncio.gather(*(chaos.job(chaos=f"{death}@{phase}", **FIELDS[phase]) for death in DEATHS))
    for reply in replies:
        assert reply.summary == (500, "worker-died", SUBMITTED[phase])
        assert reply.own_since_s(chaos.proxy.act(reply.ref)["at"]) < 1


@pytest.mark.parametrize("times", [1, 2])
async def test_w1_worker_that_dies_before_the_submission_is_replaced(chaos: Chaos, times: int) -> None:
    """The job server gets the job once, and the client its result."""
    replies = await asyncio.gather(*(chaos.job(chaos=f"{death}@p1*{times}") for death in DEATHS))
    assert [reply.status for reply in replies] == [200] * len(DEATHS)


async def test_w1_worker_that_dies_after_its_result_in_p6(chaos: Chaos) -> None:
    """The result was completely written, so it counts."""
    replies = await asyncio.gather(*(chaos.job(chaos=f"{death}@p6") for death in DEATHS))
    assert [reply.status for reply in replies] == [200] * len(DEATHS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGUSR2])
async def test_w1_worker_that_dies_in_p0(chaos: Chaos, number: signal.Signals) -> None:
    """A spare that dies just as it is given a job, before it has read it: another worker does the job.

    It is stopped first, so that it cannot read. The last two signals make it exit by itself with code 0 and 1.
    """
    spare, job = await chaos.stop_a_spare_and_give_it_a_job()
    died_at = asyncio.get_running_loop().time()
    os.kill(spare, number)
    with contextlib.suppress(ProcessLookupError):  # SIGKILL needs no resume, and the process may be gone by now
        os.kill(spare, signal.SIGCONT)
    reply: Reply = await job
    assert reply.status == 200
    assert reply.own_since_s(died_at) < 1


async def test_w1_spares_that_die_are_nobodys_loss(chaos: Chaos) -> None:
    """Every spare is killed at once: others are made, and no job is lost."""
    async with chaos.flock.quiet():
        spares = {worker["pid"] for worker in await chaos.workers() if worker["state"] == "spare"}
        for pid in spares:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: _replaced(chaos, spares))
    replies = await asyncio.gather(*(chaos.job() for _ in range(8)))
    assert [reply.status for reply in replies] == [200] * 8


async def test_w1_jobs_that_come_as_every_spare_dies_have_their_results(chaos: Chaos) -> None:
    """Every spare is killed, and five jobs come at that very moment: each succeeds, if need be with another worker."""
    async with chaos.flock.quiet():
        spares = [worker["pid"] for worker in await chaos.workers() if worker["state"] == "spare"]
        jobs = [asyncio.create_task(chaos.job()) for _ in range(5)]
        for pid in spares:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        replies = await asyncio.gather(*jobs)
    assert [reply.status for reply in replies] == [200] * 5


async def _replaced(chaos: Chaos, pids: set[int]) -> bool:
    now = {worker["pid"] for worker in await chaos.workers()}
    return len(now) >= len(pids) and not now & pids
