"""Names that the test and the processes it starts have to agree on."""

from __future__ import annotations

import zlib
from pathlib import Path

__all__ = ["semaphore_prefix", "starved_name"]


def semaphore_prefix(folder: Path) -> str:
    """Return what the names of semaphores begin with that are made for the proxy with this folder."""
    return f"chaos{zlib.crc32(str(folder).encode()):x}"


def starved_name(ref: str) -> str:
    """Return the file in which the worker of the job `ref` says how long it had no processor."""
    return f"starved-{zlib.crc32(ref.encode()):x}"
