"""The command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MEASUREMENTS", "Options", "parse"]

#: The parts of the benchmark, in the order in which they run.
MEASUREMENTS = ("throughput", "fifty", "startup", "idle", "lag", "in-flight", "instances", "lone", "queue", "tls")

#: When the last round, and the last part, may begin: a whole run takes less than ten minutes even on a slow machine.
_LIMIT_S: Final = 200.0
_LAST_PART_S: Final = 510.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is measured."""

    #: Contenders; empty: all.
    only: tuple[str, ...]
    #: Another checkout of this project that takes part, too.
    beside: Path | None
    measurements: tuple[str, ...]
    #: Settings for this project's proxy.
    settings: dict[str, str]
    #: Clients, each with one job at a time; rounds; and about how many seconds a contender's turn takes.
    clients: int
    rounds: int
    seconds: float
    #: After this many seconds, no more round of the throughput measurement begins.
    limit_s: float
    #: After this many seconds, no more part of the benchmark begins.
    last_part_s: float
    #: How many jobs are in flight at once, one measurement for each number.
    in_flight: tuple[int, ...]
    #: How many instances share a database, one measurement for each number.
    instances: tuple[int, ...]
    #: How often the short measurements are repeated, and how many lone jobs there are.
    times: int
    lone_jobs: int
    idle_seconds: float
    #: Whether docs/performance.md and its chart are written.
    write: bool


def parse(argv: Sequence[str] | None = None) -> Options:
    """Return the options; wrong usage raises SystemExit(2)."""
    given = _parser().parse_args(argv)
    quick: bool = given.quick
    settings: list[tuple[str, str]] = given.set
    whole = not (quick or given.only or given.beside or given.measure or settings)
    return Options(
        only=given.only,
        beside=given.beside,
        measurements=given.measure or MEASUREMENTS,
        settings=dict(settings),
        clients=given.clients or 32,
        rounds=given.rounds or (1 if quick else 9),
        seconds=given.seconds or (0.3 if quick else 0.7),
        limit_s=given.limit or (20.0 if quick else _LIMIT_S if whole else math.inf),
        last_part_s=_LAST_PART_S if whole else math.inf,
        in_flight=given.in_flight or ((10, 200) if quick else (10, 100, 1000, 4000)),
        instances=given.instances or ((2,) if quick else (1, 2, 3, 4, 6)),
        times=given.times or (1 if quick else 5),
        lone_jobs=20 if quick else 40,
        idle_seconds=3.0 if quick else 10.0,
        write=given.write or whole,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure this proxy beside others, on one job server, in one run.",
        epilog="The whole run takes about ten minutes and writes docs/performance.md. Every run writes"
        " build/bench/results.json; what the programs say on stderr is in build/bench/*.log.",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute, nothing written")
    parser.add_argument("--only", type=_names, default=(), metavar="NAMES", help="these contenders: fresh,reused")
    parser.add_argument(
        "--beside", type=_checkout, metavar="FOLDER", help="this proxy from another checkout as well: fresh@FOLDER"
    )
    parser.add_argument(
        "--measure", type=_measurements, default=(), metavar="NAMES", help=f"only these of {','.join(MEASUREMENTS)}"
    )
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of this proxy"
    )
    parser.add_argument("--clients", type=_count, metavar="N", help="clients at the same time (32)")
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds of the throughput measurement (9)")
    parser.add_argument(
        "--limit",
        type=float,
        metavar="S",
        help=f"seconds after which no round begins ({_LIMIT_S:g} in a whole run)",
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="about how long a turn of a contender takes (0.7)")
    parser.add_argument(
        "--in-flight", type=_counts, metavar="N,N", help="how many jobs are in flight at once (10,100,1000,4000)"
    )
    parser.add_argument(
        "--instances", type=_counts, metavar="N,N", help="how many instances share a database (1,2,3,4,6)"
    )
    parser.add_argument("--times", type=_count, metavar="N", help="repetitions of the short measurements (5)")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md also after a part of the run")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "run.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} has no run.py")
    return folder


def _measurements(text: str) -> tuple[str, ...]:
    names = _names(text)
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASUREMENTS)}")
    return names


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))
