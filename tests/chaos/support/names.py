"""Names on which the test and its processes have to agree."""

from __future__ import annotations

import zlib
from pathlib import Path

__all__ = ["semaphore_prefix", "starved_name"]


def semaphore_prefix(folder: Path) -> str:
    """Return the prefix of the names of semaphores of the proxy with this folder."""
    return f"chaos{zlib.crc32(str(folder).encode()):x}"


def starved_name(ref: str) -> str:
    """Return the file in which the worker of the job `ref` says how long it waited for CPU time."""
    return f"starved-{zlib.crc32(ref.encode()):x}"
