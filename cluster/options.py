"""The command line of `python -m cluster`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Options", "parse"]

_ABOUT = """\
Several instances of the proxy on one PostgreSQL, behind one nginx, with one job server, on this machine, to try it out.

Nothing has to run beforehand, and nothing remains: Ctrl-C stops everything and removes the database. The settings of
the instances come from the environment, as for `make run`; addresses, journal and job server are the cluster's own.
"""
_MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a cluster."""

    #: How many instances.
    instances: int = 3
    #: The gateway's port P. Instance n uses P + 10 * n, its admin address one more, the job server P + 2. 0: any free
    #: ports.
    port: int = 3000
    #: Seconds that a job takes at the job server.
    duration_s: float = 0.5
    #: Whether the instances take jobs from a queue as well.
    queue: bool = False


_DEFAULTS = Options()


def parse(argv: Sequence[str] | None = None) -> Options:
    """Parse the command line; exit with status 2 and a line that says why if it is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--instances",
        type=_instances,
        default=_DEFAULTS.instances,
        metavar="N",
        help="number of instances (%(default)s)",
    )
    add(
        "--port",
        type=_port,
        default=_DEFAULTS.port,
        help="the gateway's port (%(default)s); instance n is 10 * n above it, its admin address one more; 0: any free",
    )
    add(
        "--duration",
        type=_seconds,
        default=_DEFAULTS.duration_s,
        metavar="SECONDS",
        help="how long the job server takes for a job (%(default)s)",
    )
    add("--queue", action="store_true", help="take jobs from a queue as well, a stand-in for Amazon SQS")
    given = parser.parse_args(argv)
    return Options(instances=given.instances, port=given.port, duration_s=given.duration, queue=given.queue)


def _instances(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"{text}: 1 to {_MOST} instances")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16 - 10 * _MOST:
        raise argparse.ArgumentTypeError(f"{text} is no port with room above it: 0 to {2**16 - 10 * _MOST - 1}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return number
