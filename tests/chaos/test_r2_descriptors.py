"""R2: no descriptors left in the front end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.support.harness import Chaos
from tests.chaos.support.processes import FaultyProxy, StartProxy
from tests.chaos.support.raw import connect
from tests.support.waiting import eventually

#: They share a proxy, which would be started once for each process that runs one of them.
pytestmark = pytest.mark.xdist_group("r2")


@pytest.fixture(scope="module")
def faulty_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy whose limits may be changed."""
    with start_proxy() as proxy:
        yield proxy


@contextlib.contextmanager
def descriptors(pid: int, left: int) -> Iterator[None]:
    """Leave a process only this many more descriptors than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + left, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_r2_few_descriptors_left_refuses_jobs(chaos: Chaos) -> None:
    """New jobs are refused before none is left; running ones end well; without the limit all is as before."""
    running = [asyncio.ensure_future(chaos.job(duration=0.5, chaos="note@p3")) for _ in range(3)]
    await chaos.act_of_any(3)
    with chaos.flock.may_get(503):
        with descriptors(chaos.proxy.pid, 40):
            refused = [await chaos.job() for _ in range(5)]
            assert {reply.summary for reply in refused} == {(503, "overloaded", "no")}
            assert {reply.status for reply in await asyncio.gather(*running)} == {200}
        assert (await chaos.job()).status == 200
        await chaos.flock.land()


async def test_r2_no_descriptors_at_all(chaos: Chaos) -> None:
    """Idle connections take the last one: nothing spins, nothing leaks; when they are gone, jobs are accepted again."""
    await chaos.flock.ground()
    process = psutil.Process(chaos.proxy.pid)
    with descriptors(chaos.proxy.pid, 20):
        # The kernel accepts connections that the front end cannot.
        idle = [await connect(chaos.proxy.url, chaos.proxy.pid) for _ in range(60)]
        await eventually(lambda: chaos.proxy.connections() >= chaos.connections_before + 15)
        process.cpu_percent()
        # They are closed as idle after 5 s; until then no connection can be accepted.
        await eventually(lambda: chaos.proxy.connections() < chaos.connections_before + 15, every_s=0.1)
        assert process.cpu_percent() < 20
    for raw in idle:
        raw.reset()
    await eventually(lambda: _taken(chaos))


async def _taken(chaos: Chaos) -> bool:
    return (await chaos.job()).status == 200
