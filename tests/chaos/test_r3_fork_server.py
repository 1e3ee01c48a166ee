"""R3: the process that forks the workers is killed, terminated, stopped, or cannot be started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from functools import partial

import psutil
import pytest

from tests.chaos.support.harness import Chaos
from tests.chaos.support.processes import FaultyProxy
from tests.support.waiting import eventually

#: They share a proxy, which would be started once for each process that runs one of them.
pytestmark = pytest.mark.xdist_group("r1 and r3")


@pytest.fixture
def faulty_proxy(harmed_proxy: FaultyProxy) -> FaultyProxy:
    """A proxy whose fork server may be harmed."""
    return harmed_proxy


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_r3_fork_server_is_harmed(chaos: Chaos, number: signal.Signals) -> None:
    """Running jobs end well or their workers are gone; new ones get 200 or 503 within 2 s, and soon 200 again."""
    running = [asyncio.ensure_future(chaos.job(duration=0.8, chaos="note@p3")) for _ in range(4)]
    await chaos.act_of_any(4)
    before = chaos.proxy.fork_server_pid()
    with chaos.flock.may_get(503):
        os.kill(before, number)
        during = await asyncio.gather(*(chaos.job() for _ in range(10)))
        assert {reply.status for reply in during} <= {200, 503}
        assert max(reply.own_s for reply in during) < 2
        for reply in await asyncio.gather(*running):
            if reply.status != 200:
                assert reply.code == "worker-died"
                pid = chaos.proxy.act(reply.ref)["pid"]
                await eventually(partial(_ended, chaos, pid), 2, chaos.proxy.stopwatch())
        await eventually(lambda: _taken(chaos), 2, chaos.proxy.stopwatch())
        await chaos.flock.land()
    assert not chaos.proxy.has_worker(before)


async def test_r3_fork_server_that_cannot_start(chaos: Chaos) -> None:
    """It exits again and again: new jobs are refused within 2 s, and accepted when the cause is gone."""
    broken = chaos.proxy.folder / "no-fork-server"
    with chaos.flock.may_get(503):
        broken.touch()
        os.kill(chaos.proxy.fork_server_pid(), signal.SIGKILL)
        replies = [await chaos.job() for _ in range(6)]
        assert {reply.status for reply in replies} <= {200, 503}
        assert max(reply.own_s for reply in replies) < 2
        assert replies[-1].summary == (503, "no-worker", "no")
        broken.unlink()
        await eventually(lambda: _taken(chaos))
        await chaos.flock.land()


async def test_r3_child_of_a_worker_that_its_fork_server_did_not_reap(chaos: Chaos) -> None:
    """A worker dies while the fork server is stopped, which then dies, too: the front end kills the worker's group."""
    job = asyncio.ensure_future(chaos.job(fault="never", chaos="child@p3"))
    await chaos.act_of_any(2)  # the child's act is counted as well
    worker, child = next((act["pid"], act["child"]) for act in chaos.proxy.acts() if "child" in act)
    fork_server = chaos.proxy.fork_server_pid()
    with chaos.flock.may_get(503):
        os.kill(fork_server, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        assert (await job).summary == (500, "worker-died", "yes")
        with contextlib.suppress(ProcessLookupError):  # the front end may have killed it by now, as it does not answer
            os.kill(fork_server, signal.SIGKILL)
        await eventually(lambda: not psutil.pid_exists(worker), 2, chaos.proxy.stopwatch())
        await eventually(lambda: not psutil.pid_exists(child), 2, chaos.proxy.stopwatch())
        await eventually(lambda: _taken(chaos))
        await chaos.flock.land()


async def _taken(chaos: Chaos) -> bool:
    return (await chaos.job()).status == 200


def _ended(chaos: Chaos, pid: int) -> bool:
    return not chaos.proxy.has_worker(pid)
