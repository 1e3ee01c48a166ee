"""PostgreSQL servers for tests: initdb takes half a second of CPU, so each gets a copy of what it has made once."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

from cluster.postgresql import PostgreSQL, binaries
from tests.support.places import shared_memory
from tests.support.proxy_process import ROOT

__all__ = ["own_server"]


def own_server(**options: Any) -> PostgreSQL:
    """Return a new server, with the options of `PostgreSQL`."""
    return PostgreSQL(parent=shared_memory(), template=_template(), **options)


@functools.cache
def _template() -> Path:
    """Return where the data of a new server is kept from run to run: for this version, and readable by this user."""
    command = [str(binaries() / "postgres"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]
    return ROOT / "build" / f"postgresql-{version}-{os.geteuid()}"
