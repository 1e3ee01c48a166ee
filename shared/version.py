"""The version: the same as the newest release in CHANGELOG.md; a test makes sure. And the commit of a checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["VERSION", "commit"]

VERSION: Final = "0.9.0"
_ROOT: Final = Path(__file__).resolve().parent.parent
#: Longer than a line of git's log of what was checked out.
_LINE_BYTES: Final = 4_096
_DIGITS: Final = 12


def commit(root: Path = _ROOT) -> str:
    """Return the commit that is checked out at `root`, abbreviated; empty if that is no checkout, or cannot be read.

    The last line of git's log of HEAD has it, whether HEAD is a branch, a packed reference or detached.
    """
    try:
        git = root / ".git"
        if git.is_file():  # a worktree
            git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        with (git / "logs" / "HEAD").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LINE_BYTES))
            _, now, *_ = log.read().splitlines()[-1].split()
    except (OSError, ValueError, IndexError):
        return ""
    return now.decode("ascii", "replace")[:_DIGITS]
