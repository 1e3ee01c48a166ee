"""The contenders: the name of each, how it is started, and what a reader should know about it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from bench.processes import ROOT
from cluster.postgresql import PostgreSQLError, binaries

__all__ = ["CONTENDERS", "Contender", "available", "missing", "title_of"]

_HERE: Final = Path(__file__).resolve().parent
_PYTHON: Final = sys.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One proxy. It gets `PORT` and `JOB_SERVER_URL`, and prints its address on stdout."""

    name: str
    #: Its description in the table.
    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Whether it is this project's proxy.
    ours: bool = False
    #: The journal that is created for each start and deleted afterwards; None: `JOURNAL` is not changed.
    journal: Literal["file", "database"] | None = None
    #: Whether its profile says that connections to the job server are kept; only for this project's proxy.
    keep_alive: bool = False
    #: The limit of its clients, because more take too long; and that it takes part in every n-th round only.
    most_clients: int = 1_000
    every: int = 1
    #: How to install its program if it is missing.
    package: str = ""
    #: The checkout that it is started from.
    folder: Path = ROOT


def _proxy(
    name: str,
    title: str,
    worker_max_jobs: int,
    journal: Literal["file", "database"] | None = None,
    *,
    keep_alive: bool = False,
) -> Contender:
    settings = {
        "HOST": "127.0.0.1",
        "ADMIN_PORT": "",
        "JOURNAL": "",
        "LOG_FORMAT": "json",
        "WORKER_MAX_JOBS": str(worker_max_jobs),
    }
    return Contender(
        name=name,
        title=title,
        command=(_PYTHON, "run.py"),
        environment=settings,
        ours=True,
        journal=journal,
        keep_alive=keep_alive,
    )


def _python(
    name: str, title: str, module: str, *, most_clients: int = 1_000, every: int = 1, **environment: str
) -> Contender:
    return Contender(
        name=name,
        title=title,
        command=(_PYTHON, "-m", f"bench.contenders.{module}"),
        environment=environment,
        most_clients=most_clients,
        every=every,
    )


CONTENDERS: Final = {
    contender.name: contender
    for contender in (
        _proxy("fresh", "this proxy, a fresh process per job", 1),
        _proxy("fresh+journal", "this proxy, a fresh process per job, with a journal", 1, "file"),
        _proxy("fresh+postgresql", "this proxy, a fresh process per job, with PostgreSQL", 1, "database"),
        _proxy("reused", "this proxy, reused workers", 0),
        _proxy("reused+journal", "this proxy, reused workers, with a journal", 0, "file"),
        _proxy("reused+postgresql", "this proxy, reused workers, with PostgreSQL", 0, "database"),
        _proxy("reused+kept", "this proxy, reused workers that keep their connection", 0, keep_alive=True),
        _python("uvloop", "one asyncio process on uvloop, no isolation", "asyncio_proxy"),
        _python(
            "uvloop+kept", "one asyncio process on uvloop that keeps its connections", "asyncio_proxy", KEEP_ALIVE="1"
        ),
        Contender(
            name="beam",
            title="Erlang, a BEAM process per job",
            command=("escript", str(_HERE / "beam_proxy.escript")),
            package="apt install erlang-base",
        ),
        Contender(
            name="node",
            title="Node.js, a worker thread per request",
            command=("node", str(_HERE / "node_threads.cjs")),
            every=2,
            package="apt install nodejs",
        ),
        _python("pebble", "pebble, a process per request", "pebble_proxy", every=2),
        _python("spawn", "multiprocessing, spawn per request", "spawn_proxy", most_clients=8, every=5),
    )
}


def available(beside: Path | None = None) -> dict[str, Contender]:
    """Return the contenders whose programs are installed here.

    This project's proxy takes part again from the checkout `beside`: as `fresh@<folder>` and so on.
    """
    found = {name: contender for name, contender in CONTENDERS.items() if _is_here(contender)}
    if beside is not None:
        others = [contender for contender in found.values() if contender.ours]
        found |= {other.name: other for other in (_from(beside, contender) for contender in others)}
    return found


def _is_here(contender: Contender) -> bool:
    if contender.journal == "database":
        try:
            binaries()
        except PostgreSQLError:
            return False
    return shutil.which(contender.command[0]) is not None


def missing() -> list[str]:
    """Return a line for each contender that cannot take part here, with what is missing."""
    lines = []
    for contender in CONTENDERS.values():
        if not _is_here(contender):
            lacks = f"{contender.command[0]} ({contender.package})" if contender.package else "PostgreSQL"
            lines.append(f"{contender.name} does not take part: there is no {lacks}")
    return lines


def title_of(name: str) -> str:
    """Return a contender's title, even if it is from another checkout."""
    known, _, checkout = name.partition("@")
    return f"{CONTENDERS[known].title} ({checkout})" if checkout else CONTENDERS[known].title


def _from(checkout: Path, contender: Contender) -> Contender:
    name = f"{contender.name}@{checkout.name}"
    return replace(contender, name=name, title=title_of(name), folder=checkout)
