"""A disk that can lose its power: a file system in a file, of which only that survives that had reached the disk.

The file system has a cache, as that of any machine. What is written and not flushed is in there, and not in the file
below. So the file as it is at one moment is what a machine would find that lost its power then.
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
    """Return what stands against such a disk here; empty: nothing."""
    if os.geteuid() != 0:
        return "only root may mount a file system"
    if not Path("/dev/loop-control").exists() or shutil.which("mkfs.ext4") is None:
        return "there are no loop devices, or no mkfs.ext4"
    return ""


@contextlib.contextmanager
def disk(file: Path, *, megabytes: int = 0) -> Iterator[Path]:
    """Mount what is in `file` beside it, a new file system if `megabytes`; yield where, and end it with the block.

    Raises subprocess.CalledProcessError: that is not allowed here.
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
        _run("losetup", "--detach", device)  # once nobody uses it any more


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
