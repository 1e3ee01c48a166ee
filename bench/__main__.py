"""`python -m bench`: measure this proxy beside others."""

from __future__ import annotations

import argparse
import asyncio

from bench.contenders.table import available
from bench.session import open_session
from bench.throughput import run_rounds


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="short measurements")
    parser.add_argument("--only", default="", metavar="NAMES", help="contenders, comma separated")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the proxy")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    contenders = available()
    names = options.only.split(",") if options.only else list(contenders)
    extra = dict(pair.split("=", 1) for pair in options.set)
    async with open_session(extra) as session:
        await run_rounds(
            session,
            [contenders[name] for name in names],
            rounds=options.rounds or (1 if options.quick else 5),
            clients=options.clients,
            seconds=options.seconds or (1.5 if options.quick else 3.0),
        )


if __name__ == "__main__":
    asyncio.run(_run(_parse()))
