"""The seeded kill loop: dozens of clients, random faults, random kills, and three accounts that must agree at the end.

Short by default; `make soak SECONDS=600` runs it longer. SOAK_SEED repeats a sequence: it alone determines which client
sends which jobs, and which process is harmed how and when, counted in jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.support.faults import FAULTS
from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.support.http import fetch, new_ref
from tests.support.waiting import eventually

_SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
_SEED = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
_CLIENTS = 24
#: On average, one job in this many is accompanied by harm to a process.
_HARM_ONE_IN = 60
_MIB = 1024 * 1024
#: How often the front end's memory is measured.
_LOOK_S = 5.0
#: For this many measurements per quarter, about two minutes, it must not grow.
_QUARTER_LOOKS = 6
_REFUSED = 503
_ALWAYS = {(503, "overloaded"), (503, "no-worker"), (500, "worker-died"), (500, "deadline-exceeded")}


@pytest.fixture
def soaked(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy for the soak."""
    with start_proxy(MAX_JOBS="64", WORKER_SPARES="4", hasty=True) as proxy:
        yield proxy


class Soak:
    """One run: its clients, what they sent, and what they got."""

    def __init__(self, chaos: Chaos, seed: int, seconds: float) -> None:
        self.chaos = chaos
        self.counts: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        #: The front end's memory at each measurement.
        self.memory_bytes: list[int] = []
        self._seed = seed
        self._until = time.monotonic() + seconds

    async def run(self) -> None:
        """Run every client until the time is over and each has its final answer."""
        looking = asyncio.ensure_future(self._look_at_memory())
        try:
            await asyncio.gather(*(self._client(n) for n in range(_CLIENTS)))
        finally:
            looking.cancel()

    async def _look_at_memory(self) -> None:
        while True:
            self.memory_bytes.append(self.chaos.proxy.memory_bytes())
            await asyncio.sleep(_LOOK_S)

    async def _client(self, n: int) -> None:
        rng = random.Random(self._seed * 1_000 + n)
        names = list(FAULTS)
        while time.monotonic() < self._until:
            name = rng.choice(names)
            harm = rng.randrange(_HARM_ONE_IN)
            leaves = rng.random() < 0.03
            if harm < 3:
                await self._harm(harm)
            if leaves:
                await self._leave(FAULTS[name].fields)
            else:
                await self._job(name)

    async def _job(self, name: str) -> None:
        fault = FAULTS[name]
        reply: Reply = await self.chaos.job(**fault.fields)
        self.counts[f"job: {name}"] += 1
        self.answers[reply.code or "200"] += 1
        # The soak kills and stops workers in any state; overload and a missing fork server lead to refusals.
        allowed = fault.allowed | _ALWAYS
        assert (reply.status, reply.code) in allowed, f"{name}: {reply.answer}"
        if reply.status == _REFUSED:  # asking again at once only harms more processes, until all are refused
            await asyncio.sleep(float(reply.answer.headers["Retry-After"]))

    async def _leave(self, fields: dict[str, object]) -> None:
        """Post a job and reset the connection."""
        raw = await self.chaos.raw()
        ref = new_ref()
        await raw.send_job(account=ref, ref=ref, **fields)
        raw.reset()
        self.counts["client left"] += 1

    async def _harm(self, what: int) -> None:
        """Harm a process without a job that asked for it."""
        pid, number = 0, signal.SIGKILL
        if what == 0:
            with contextlib.suppress(ValueError):  # it is being replaced
                pid = self.chaos.proxy.fork_server_pid()
        else:
            workers = await self.chaos.workers()
            pid = workers[0]["pid"] if workers else 0
            number = signal.SIGKILL if what == 1 else signal.SIGSTOP
        if pid and self.chaos.proxy.has_worker(pid):  # the pid may belong to another process by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                self.counts[f"harm: {('fork server', 'worker killed', 'worker stopped')[what]}"] += 1


@pytest.mark.soak
@pytest.mark.timeout(_SECONDS + 240)
async def test_soak_every_job_is_accounted_for_on_three_sides(
    soaked: FaultyProxy, job_server: JobServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients' answers, the front end's log and counters, and the job server's ledger agree; nothing is left over."""
    begun = time.monotonic()
    try:
        async with Chaos(soaked, job_server, canaries=False) as chaos:
            before, watch = soaked.memory_bytes(), soaked.stopwatch()
            soak = Soak(chaos, _SEED, _SECONDS)
            await soak.run()
            await eventually(lambda: _idle(chaos), TIMEOUT_S + 3, soaked.stopwatch(), every_s=0.1)
            await chaos.forget_abandoned(soak.counts["client left"])
            await _outgrow(chaos)
            summary = await chaos.ledger_summary()
            refused = soak.answers["no-worker"] + soak.answers["overloaded"]
            busy = watch.starved_s > watch.took_s / 2
            assert busy or refused < soak.answers.total() / 2, f"most jobs were not even taken: {soak.answers}"
            grown = soaked.memory_bytes() - before
            assert grown < 48 * _MIB, f"the front end grew by {grown / _MIB:.0f} MiB"
            assert _late_growth(soak.memory_bytes) < 8 * _MIB, [size // _MIB for size in soak.memory_bytes]
    except BaseException:
        with capsys.disabled():
            sys.stdout.write(f"\nSOAK_SEED={_SEED} repeats this; exit code so far: {soaked.returncode}\n")
            sys.stdout.write("\n".join(line for line in soaked.stderr if "job_id" not in line)[-5_000:] + "\n")
        raise
    with capsys.disabled():
        _report(soak, summary, time.monotonic() - begun, grown)


async def _idle(chaos: Chaos) -> bool:
    answer = await fetch(chaos.session, "GET", f"{chaos.proxy.admin}/workers")
    return all(worker["state"] == "spare" for worker in answer.document)


async def _outgrow(chaos: Chaos) -> None:
    """Use up the spares of a killed fork server: as long as they live, the pipe of its stderr is open."""
    while chaos.proxy.lost_workers():
        await asyncio.gather(*(chaos.job() for _ in range(chaos.proxy.spares)))


def _late_growth(sizes: list[int]) -> int:
    """Return how far the minimum of the last quarter is above that of the second: by then, everything kept is full."""
    quarter = len(sizes) // 4
    if quarter < _QUARTER_LOOKS:
        return 0  # too short to tell
    return min(sizes[-quarter:]) - min(sizes[quarter : 2 * quarter])


def _report(soak: Soak, summary: dict[str, int], took_s: float, grown_bytes: int) -> None:
    jobs = sum(soak.answers.values())
    faults = sum(count for name, count in soak.counts.items() if name not in {"job: none", "job: slow"})
    harm = {name: count for name, count in soak.counts.items() if not name.startswith("job: ")}
    lines = (
        f"\nsoak: seed {_SEED}, {took_s:.0f} s, {jobs} jobs answered, {faults} faults",
        "answers: " + ", ".join(f"{code} {count}" for code, count in soak.answers.most_common()),
        "harm: " + (", ".join(f"{name} {count}" for name, count in harm.items()) or "none"),
        f"abandoned {soak.chaos.abandoned}; submissions {summary['submissions']}, started {summary['started']}",
        "memory, MiB: " + " ".join(f"{size / _MIB:.0f}" for size in soak.memory_bytes),
        f"lost 0, doubled {summary['submitted_twice']}, leaked 0; memory grew by {grown_bytes / _MIB:.1f} MiB\n",
    )
    sys.stdout.write("\n  ".join(lines))
