"""Stack traces without values: file, line and function of each frame, and types of exceptions.

These are code and never data, so they may be logged. The messages of exceptions and the values of variables are never
included, because they may contain a token or a body.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

__all__ = ["origin", "stack"]

_ROOT: Final = Path(__file__).resolve().parent.parent
#: How many frames are reported; the outer ones are nearly always the same.
_FRAMES: Final = 8
#: How many causes of an exception are reported.
_CHAIN: Final = 4


def stack(frame: FrameType | None) -> str:
    """Return the position of `frame` and its callers, innermost first: `file:line function < file:line function`."""
    return _steps((where.f_code, line) for where, line in traceback.walk_stack(frame))


def origin(exc: BaseException) -> str:
    """Return where `exc` was raised, in the form of `stack`, followed by the type and place of each cause.

    For example `worker/a.py:3 f < worker/b.py:7 g; caused by KeyError at worker/a.py:2 f`.
    """
    return "; ".join([_place(exc), *_led_to(exc)])


def _led_to(exc: BaseException) -> Iterator[str]:
    """Yield the causes, contexts and parts of `exc`, the nearest first."""
    todo = _reasons(exc)
    seen = {id(exc)}
    while todo and len(seen) <= _CHAIN:
        how, reason = todo.pop(0)
        if id(reason) not in seen:
            seen.add(id(reason))
            yield f"{how} {type(reason).__qualname__} at {_place(reason)}"
            todo += _reasons(reason)


def _reasons(exc: BaseException) -> list[tuple[str, BaseException]]:
    found = [("with", part) for part in exc.exceptions] if isinstance(exc, BaseExceptionGroup) else []
    if exc.__cause__ is not None:
        found.append(("caused by", exc.__cause__))
    elif exc.__context__ is not None and not exc.__suppress_context__:
        found.append(("while handling", exc.__context__))
    return found


def _place(exc: BaseException) -> str:
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(exc.__traceback__)]
    return _steps(reversed(frames)) or "nowhere"


def _steps(frames: Iterable[tuple[CodeType, int]]) -> str:
    steps = [f"{_short(code.co_filename)}:{line} {code.co_name}" for code, line in frames]
    return " < ".join(steps[:_FRAMES])


def _short(path: str) -> str:
    file = Path(path)
    if file.is_relative_to(_ROOT):
        return str(file.relative_to(_ROOT))
    return "/".join(file.parts[-2:])  # a library's package and file
