"""Where code stands: file, line and function of each frame. These are code and never data, so they may be logged."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import FrameType
from typing import Final

__all__ = ["stack"]

_ROOT: Final = Path(__file__).resolve().parent.parent
#: Frames that are told; those further out are the same in nearly every case.
_FRAMES: Final = 8


def stack(frame: FrameType | None) -> str:
    """Return where `frame` stands and who called it, the innermost first: `file:line function < file:line function`."""
    found = traceback.walk_stack(frame)
    steps = [f"{_short(code.f_code.co_filename)}:{line} {code.f_code.co_name}" for code, line in found]
    return " < ".join(steps[:_FRAMES])


def _short(path: str) -> str:
    file = Path(path)
    if file.is_relative_to(_ROOT):
        return str(file.relative_to(_ROOT))
    return "/".join(file.parts[-2:])  # a library's: its package and its file
