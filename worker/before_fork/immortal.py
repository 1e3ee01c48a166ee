"""Makes what exists before the fork immortal, so that a worker that uses an object does not write to it.

CPython counts references in the object itself. A worker that only looks at an object so writes to it, and the kernel
copies the page that it lies on: more than half of the pages that a worker has for itself. Since Python 3.12 an object
whose count has a certain value is not counted any more (PEP 683, which names forked workers as a reason), but Python
has no call that gives an object this value. `None` has it, so it is read from there; where `None` is counted as
everything else (3.11), or an object does not look as expected (debug builds, builds without the GIL), nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import sysconfig
import types
from typing import Final

__all__ = ["make_immortal"]

#: A count from here on is that of an immortal object; CPython's own test is the sign of the lower half.
_LEAST: Final = 2**31
#: All that a process may address, whatever the processor.
_MEMORY_WORDS: Final = 2**57 // 4
#: Objects that are followed together: a call for each takes longer, and all at once more memory.
_AT_ONCE: Final = 200
#: What runs or may run again; it is gone through by whoever finishes it.
_NOT: Final = (types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


def make_immortal() -> int:
    """Make every object immortal that the garbage collector can reach; return how many, 0 where that cannot be done."""
    count = _count(None)
    if count < _LEAST or not _is_laid_out_as_expected():
        return 0
    memory = (ctypes.c_uint32 * _MEMORY_WORDS).from_address(0)  # one view for all counts
    found = _reachable()
    for address in found:
        memory[address // 4] = count
    return len(found)


def _count(thing: object) -> int:
    """Return the lower half of an object's reference count, which is the first thing in it."""
    value: int = ctypes.c_uint32.from_address(id(thing)).value
    return value


def _is_laid_out_as_expected() -> bool:
    if sys.byteorder != "little" or sys.maxsize < 2**32 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    probe = object()
    before = _count(probe)
    more = [probe] * 5
    return _count(probe) == before + len(more)


def _reachable() -> set[int]:
    """Return where the objects are that are alive, less those made here."""
    todo = [thing for thing in gc.get_objects() if not isinstance(thing, _NOT)]
    seen = set(map(id, todo))
    while todo:
        some, todo[-_AT_ONCE:] = todo[-_AT_ONCE:], []
        for thing in gc.get_referents(*some):
            if id(thing) not in seen and not isinstance(thing, _NOT):
                seen.add(id(thing))
                todo.append(thing)
    return seen
