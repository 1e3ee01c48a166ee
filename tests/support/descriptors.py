"""Which descriptors this process has."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["descriptors"]


def descriptors() -> set[tuple[str, str]]:
    """Return each descriptor's number, and what it refers to.

    Compare sets, not numbers of descriptors: those that an earlier test left behind may be closed at any time.
    """
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # such as the one that listed the others
            found.add((entry.name, str(entry.readlink())))
    return found
