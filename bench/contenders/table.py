"""Who takes part: the name, how it is started, and what a reader should know about it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["CONTENDERS", "Contender", "available"]

_HERE: Final = Path(__file__).resolve().parent
_PYTHON: Final = sys.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One proxy. It is told `PORT` and `JOB_SERVER_URL` and says on stdout where it listens."""

    name: str
    #: What it is, for the table.
    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Whether it is this project's proxy.
    ours: bool = False
    #: Whether each start gets a journal of its own, which goes when it ends; else `JOURNAL` is as it is told.
    journal: bool = False


def _proxy(name: str, title: str, worker_max_jobs: int, *, journal: bool = False) -> Contender:
    settings = {
        "HOST": "127.0.0.1",
        "ADMIN_PORT": "",
        "JOURNAL": "",
        "LOG_FORMAT": "json",
        "WORKER_MAX_JOBS": str(worker_max_jobs),
    }
    return Contender(
        name=name, title=title, command=(_PYTHON, "run.py"), environment=settings, ours=True, journal=journal
    )


def _python(name: str, title: str, module: str, **environment: str) -> Contender:
    command = (_PYTHON, "-m", f"bench.contenders.{module}")
    return Contender(name=name, title=title, command=command, environment=environment)


CONTENDERS: Final = {
    contender.name: contender
    for contender in (
        _proxy("fresh", "this proxy, a fresh process per job", 1),
        _proxy("fresh+journal", "this proxy, a fresh process per job, with a journal", 1, journal=True),
        _proxy("reused", "this proxy, reused workers", 0),
        _proxy("reused+journal", "this proxy, reused workers, with a journal", 0, journal=True),
        _python("asyncio", "one asyncio process, no isolation", "asyncio_proxy"),
        _python("uvloop", "one asyncio process on uvloop, no isolation", "asyncio_proxy", LOOP="uvloop"),
        Contender(
            name="node", title="Node.js, a worker thread per request", command=("node", str(_HERE / "node_threads.cjs"))
        ),
        _python("pebble", "pebble, a process per request", "pebble_proxy"),
        _python("spawn", "multiprocessing, spawn per request", "spawn_proxy"),
    )
}


def available() -> dict[str, Contender]:
    """Return the contenders whose program is installed here."""
    return {name: contender for name, contender in CONTENDERS.items() if shutil.which(contender.command[0])}
