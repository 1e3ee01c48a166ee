"""A disk without room, for the journal alone."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxy_process import ProxyProcess

__all__ = ["no_room"]


@contextmanager
def no_room(proxy: ProxyProcess, journal: Path) -> Iterator[None]:
    """Let no file of the front end grow beyond the journal's size: what a full disk or a quota does."""
    soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (Path(f"{journal}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (soft, hard))
