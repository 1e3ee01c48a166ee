"""A full disk for the journal only."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxy_process import ProxyProcess

__all__ = ["no_room"]


@contextmanager
def no_room(proxy: ProxyProcess, journal: Path) -> Iterator[None]:
    """Keep the front end's files from growing beyond the journal's size, like a full disk or a quota."""
    soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (Path(f"{journal}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (soft, hard))
