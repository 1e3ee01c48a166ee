"""`python -m tests.chaos.support.faulty_proxy`: the real front end, with workers that break on request.

When a test asks, it also measures its event loop's lag every few milliseconds, less the time in which this process got
no CPU time, which says nothing about this program. The figures are in the file CHAOS_DIR/lag.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Final

from proxy.__main__ import main
from proxy.run import process as front_end
from proxy.workers import environment, spawning
from tests.chaos.support.clock import follow_clock
from tests.support.stopwatch import Stopwatch

#: Longest lag without that time, in seconds; of the loop's thread in it: CPU time, and pages that had to be read from
#: disk, for which the program can do nothing; longest lag in all; number of measurements, and of those over _LATE_S.
#: Behind them is a byte: whether to measure. That takes a fortieth of a core, and most proxies are idle for most of a
#: test run.
LAG: Final = struct.Struct("ddddqq")
#: Begins a measurement. To look for the byte again and again would take CPU all the time.
MEASURE: Final = signal.SIGRTMIN
_LATE_S: Final = 0.02
_EVERY_S: Final = 0.01


async def _watch_loop() -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(MEASURE, asked.set)
    path = Path(os.environ["CHAOS_DIR"], "lag")
    path.write_bytes(bytes(LAG.size + 1))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), LAG.size + 1) as shown:
        while True:
            await asked.wait()
            asked.clear()
            watch, starved_s = Stopwatch(), 0.0
            while shown[LAG.size]:
                begun_s, begun_cpu_s, begun_faults = watch.took_s, time.thread_time(), _faults()
                await asyncio.sleep(_EVERY_S)
                late_s = watch.took_s - begun_s - _EVERY_S
                before_s, starved_s = starved_s, watch.starved_s
                own_s = max(0.0, late_s - (starved_s - before_s))
                *worst, worst_s, looks, late = LAG.unpack_from(shown)
                worst = max([own_s, time.thread_time() - begun_cpu_s, _faults() - begun_faults], worst)
                late += own_s > _LATE_S
                LAG.pack_into(shown, 0, *worst, max(late_s, worst_s), looks + 1, late)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


def _patch() -> None:
    spawning.COMMAND = (sys.executable, "-m", "tests.chaos.support.faulty_worker")
    environment.PREFIXES = (*environment.PREFIXES, "CHAOS_", "WORKER_MAX_JOBS")
    run = front_end.FrontEnd.run
    tasks = []

    async def watched_run(self: front_end.FrontEnd) -> None:
        tasks.append(asyncio.ensure_future(_watch_loop()))
        await run(self)

    front_end.FrontEnd.run = watched_run  # type: ignore[method-assign]


if __name__ == "__main__":
    follow_clock(Path(os.environ["CHAOS_DIR"], "clock"))
    _patch()
    sys.exit(main())
