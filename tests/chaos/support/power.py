"""A disk that can lose power: a file system in a file, of which only what had reached the disk survives.

The file system has a cache, like that of any machine. What is written and not flushed is in the cache, and not in the
file below it. So a copy of the file is what a machine would find that lost power at that moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["disk", "lacking"]


def lacking() -> str:
    """Return why there can be no such disk here; empty if there can."""
    if os.geteuid() != 0:
        return "only root may mount a file system"
    if not Path("/dev/loop-control").exists() or shutil.which("mkfs.ext4") is None:
        return "there are no loop devices, or no mkfs.ext4"
    return ""


@contextlib.contextmanager
def disk(file: Path, *, megabytes: int = 0) -> Iterator[Path]:
    """Mount the file system in `file` beside it, a new one if `megabytes`; yield the path, and unmount it at the end.

    Raises subprocess.CalledProcessError: mounting is not allowed here.
    """
    if megabytes:
        with file.open("wb") as made:
            made.truncate(megabytes * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", str(file))
    place = file.with_suffix(".mounted")
    place.mkdir()
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(file))
    try:
        _run("mount", device, str(place))
        try:
            place.chmod(0o755)
            yield place
        finally:
            _run("umount", "--lazy", str(place))
    finally:
        _run("losetup", "--detach", device)  # once it is no longer in use


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
