"""Puts the code that a job runs side by side in memory.

CPython counts references, so a worker that runs a function writes to the function's code, and the kernel copies the
page that it lies on. Modules are loaded one after the other, what a job needs beside what it does not, so that some
three hundred functions lie on 250 pages. Copies that are made in one go lie on a hundred.
"""

from __future__ import annotations

import gc
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = ["gather"]

#: The code that was replaced. Were it let go, what a child makes would lie in the holes, one here and one there.
_kept: Final[list[object]] = []


def gather(run: Callable[[], object]) -> None:
    """Call `run`, then give each function that it called a copy of its code, all of them made in one go."""
    called: dict[int, CodeType] = {}

    def note(frame: FrameType, _event: str, _arg: object) -> None:
        called[id(frame.f_code)] = frame.f_code

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType and id(thing.__code__) in called]
    functions.sort(key=lambda function: sys.getsizeof(function.__code__))  # an allocator keeps a page for each size
    copies = [function.__code__.replace() for function in functions]
    for function, copy in zip(functions, copies, strict=True):
        function.__code__ = copy
    _kept.append(called)
