"""PostgreSQL servers for tests: initdb takes half a second of CPU, so each gets a copy of what it has made once."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from cluster.postgresql import PostgreSQL, binaries
from tests.support.places import shared_memory
from tests.support.proxy_process import ROOT

__all__ = ["create_database", "own_server"]


def own_server(**options: Any) -> PostgreSQL:
    """Return a new server, with the options of `PostgreSQL`."""
    return PostgreSQL(parent=shared_memory(), template=_template(), **options)


def create_database(server: PostgreSQL, name: str) -> str:
    """Create an empty database and return its URL. As of version 15, all its pages would go through the log."""
    strategy = " STRATEGY file_copy" if int(re.split(r"\D", _version())[0]) >= 15 else ""
    server.sql(f"CREATE DATABASE {name}{strategy}")
    return server.url(name)


def _template() -> Path:
    """Return where the data of a new server is kept from run to run: for this version, and readable by this user."""
    return ROOT / "build" / f"postgresql-{_version()}-{os.geteuid()}"


@functools.cache
def _version() -> str:
    command = [str(binaries() / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]
