"""`python -m bench`: measure this proxy beside others, print the figures, and write them into the documentation."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from bench.chart import draw, draw_growth
from bench.contenders.table import Contender, available, missing
from bench.document import fill
from bench.fifty import run_fifty
from bench.in_flight import run_in_flight
from bench.instances import run_instances
from bench.lag import run_lag, run_large_callbacks
from bench.lone import run_lone
from bench.machine import allow_many_connections, describe
from bench.measures import Results
from bench.options import Options, parse
from bench.processes import LOGS, ROOT
from bench.queue import run_queue
from bench.session import Session, open_session
from bench.startup import run_idle, run_startup
from bench.tables import sections
from bench.throughput import run_rounds
from bench.tls import run_tls

_DOCUMENT = ROOT / "docs" / "performance.md"
_CHART = ROOT / "docs" / "performance.svg"
_GROWTH_CHART = ROOT / "docs" / "performance-growth.svg"
_RESULTS = LOGS.parent / "bench" / "results.json"
#: The contenders in the measurements other than throughput.
_QUICK_ONES = ("fresh", "reused", "uvloop")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen measurements; return 1 if something could not be measured."""
    options = parse(argv)
    contenders = available(options.beside)
    unknown = set(options.only) - set(contenders)
    if unknown:
        print(f"error: not here: {', '.join(sorted(unknown))}; there are {', '.join(contenders)}", file=sys.stderr)
        return 2
    for line in missing():
        print(line)
    allow_many_connections()
    started = time.monotonic()
    chosen = [contender for name, contender in contenders.items() if not options.only or name in options.only]
    results = Results(machine=describe(), options=asdict(options))
    asyncio.run(_measure(options, chosen, results))
    _print(results)
    _RESULTS.write_text(json.dumps(asdict(results), indent=2, default=str) + "\n", encoding="utf-8")
    if options.write:
        _DOCUMENT.write_text(fill(_DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
        _CHART.write_text(draw(results), encoding="utf-8")
        _GROWTH_CHART.write_text(draw_growth(results), encoding="utf-8")
    print(f"\n{time.monotonic() - started:.0f} s in all. Figures: {_RESULTS.relative_to(ROOT)}")
    return 1 if results.failures else 0


async def _measure(options: Options, chosen: Sequence[Contender], results: Results) -> None:
    if task := asyncio.current_task():  # on SIGTERM, end the started processes
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started = time.monotonic()
    async with open_session(options.settings) as session:
        for name in options.measurements:
            if time.monotonic() - started > options.last_part_s:
                session.failures.append(f"{name}: the time was up")
                continue
            print(f"{name}:", flush=True)
            await _measure_one(name, session, options, chosen, results)
        results.failures = session.failures


async def _measure_one(
    name: str, session: Session, options: Options, chosen: Sequence[Contender], results: Results
) -> None:
    quick_ones = [one for one in chosen if one.name.partition("@")[0] in _QUICK_ONES]
    ours = next((one for one in chosen if one.ours), None)
    if name == "throughput":
        results.rounds = await run_rounds(
            session,
            chosen,
            rounds=options.rounds,
            clients=options.clients,
            seconds=options.seconds,
            limit_s=options.limit_s,
        )
    elif name == "fifty":
        results.fifty = await run_fifty(session, quick_ones, times=options.times)
    elif name == "lone":
        results.lone = await run_lone(session, quick_ones, jobs=options.lone_jobs, durations_s=(0.0, 0.1))
    elif ours is None:
        print("  needs this project's proxy")
    else:
        await _measure_ours(name, session, options, ours, results, [one for one in quick_ones if one.ours])


async def _measure_ours(
    name: str,
    session: Session,
    options: Options,
    ours: Contender,
    results: Results,
    quick_ones: Sequence[Contender],
) -> None:
    if name == "tls":
        results.tls = await run_tls(session, quick_ones)
    elif name == "lag":
        results.lag = await run_lag(session, ours, jobs=500, times=(options.times + 1) // 2)
        results.large_callbacks = await run_large_callbacks(session, ours, times=options.times)
    elif name == "in-flight":
        for jobs in options.in_flight:
            results.in_flight += await run_in_flight(session, ours, jobs=jobs)
    elif name == "instances":
        for count in options.instances:
            results.instances += await run_instances(session, ours, count=count, seconds=options.seconds * 3)
    elif name == "queue":
        results.queue = await run_queue(session, times=options.times)
    elif name == "startup":
        results.startup_s = await run_startup(session, ours, times=options.times)
    else:
        results.idle = await run_idle(session, ours, seconds=options.idle_seconds)


def _print(results: Results) -> None:
    for name, text in sections(results).items():
        if text.count("\n") > 1 or name == "machine":
            print(f"\n## {name}\n\n{text}")


if __name__ == "__main__":
    sys.exit(main())
