"""Where the tests may keep what need not outlive the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["shared_memory"]

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there is made by mkdtemp
_ENOUGH_BYTES: Final = 1024 * 1024 * 1024


def shared_memory() -> Path | None:
    """Return a folder in memory, where what waits for the disk need not wait; None if there is no room for much.

    A database that is killed waits for every one of its thousand files when it starts again, and other tests write too.
    """
    if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_SHARED_MEMORY).free > _ENOUGH_BYTES:
        return _SHARED_MEMORY
    return None
