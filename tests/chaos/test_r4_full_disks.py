"""R4: /tmp or /dev/shm is full; stdout is /dev/full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.support.harness import Chaos
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.support.waiting import eventually

#: Small file systems, mounted over the shared ones for this proxy only. The test's marks stay where they are, and so
#: does the checkout, which may itself be below /tmp.
_OWN_MOUNTS = (
    'mkdir -p /run/chaos-marks /run/chaos-root && mount --bind "$CHAOS_DIR" /run/chaos-marks && '
    'mount --bind "$PWD" /run/chaos-root && '
    "mount -t tmpfs -o size=32m tmpfs /tmp && mount -t tmpfs -o size=2m tmpfs /dev/shm && "
    'mkdir -p "$CHAOS_DIR" && mount --bind /run/chaos-marks "$CHAOS_DIR" && '
    'mkdir -p "$PWD" && mount --bind /run/chaos-root "$PWD" && cd "$PWD" && exec "$@"'
)


@pytest.fixture(scope="module")
def own_mounts(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy with a small /tmp and a small /dev/shm; its journal is in /tmp."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this container may not make mount namespaces; see docs/reliability.md, R4")
    prefix = ("unshare", "--mount", "sh", "-c", _OWN_MOUNTS, "sh")
    with start_proxy(prefix=prefix, WORKER_SPARES="2", JOURNAL="/tmp/journal") as proxy:  # noqa: S108 - it is the full one
        yield proxy


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.xdist_group("r4")
@pytest.mark.parametrize("where", ["tmp", "dev/shm"])
async def test_r4_full_file_system(own_mounts: FaultyProxy, job_server: JobServerProcess, where: str) -> None:
    """Jobs get 200 or 503 while it is full, those in flight end well; when there is room, all is as before."""
    async with Chaos(own_mounts, job_server) as chaos:
        running = [asyncio.ensure_future(chaos.job(duration=0.8, chaos="note@p3")) for _ in range(3)]
        await chaos.act_of_any(3)
        stuffing = Path(f"/proc/{own_mounts.pid}/root/{where}/stuffing")
        with chaos.flock.may_get(503):
            fill(stuffing)
            during = [await chaos.job(ref=f"{where}-{n}") for n in range(8)]
            assert {reply.status for reply in during} <= {200, 503}
            assert {reply.status for reply in await asyncio.gather(*running)} == {200}
            assert own_mounts.returncode is None
            stuffing.unlink()
            await eventually(lambda: _taken(chaos))
            await chaos.flock.land()


@pytest.mark.xdist_group("r4")
async def test_r4_results_that_would_fill_the_disk(own_mounts: FaultyProxy, job_server: JobServerProcess) -> None:
    """The oldest are deleted before the disk is full, and no job is refused: 36 MB of results on a disk of 32."""
    async with Chaos(own_mounts, job_server) as chaos:
        replies = [await chaos.job(fault="big-result", bytes=900_000) for _ in range(40)]
        assert {reply.status for reply in replies} == {200}


async def test_r4_stdout_is_full(start_proxy: StartProxy, job_server: JobServerProcess) -> None:
    """Nothing can be printed; it still serves."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with start_proxy(stdout=full) as proxy:
            async with Chaos(proxy, job_server) as chaos:
                replies = await asyncio.gather(*(chaos.job() for _ in range(10)))
                assert {reply.status for reply in replies} == {200}
    finally:
        os.close(full)


async def _taken(chaos: Chaos) -> bool:
    return (await chaos.job()).status == 200
