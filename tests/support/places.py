"""Folders for data of tests that need not survive a reboot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["shared_memory"]

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - only mkdtemp creates files there
_ENOUGH_BYTES: Final = 1024 * 1024 * 1024


def shared_memory() -> Path | None:
    """Return a folder in memory, where nothing waits for the disk; None if there is not enough room.

    A database that was killed syncs all of its thousand files when it is restarted, while other tests write, too.
    """
    if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_SHARED_MEMORY).free > _ENOUGH_BYTES:
        return _SHARED_MEMORY
    return None
