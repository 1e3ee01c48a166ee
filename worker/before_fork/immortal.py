"""Makes the objects that exist before the fork immortal, so that a worker that uses an object does not write to it.

CPython counts references in the object itself. So a worker that only reads an object writes to it, and the kernel
copies its page: more than half of a worker's own pages. Since Python 3.12, an object with a certain count is no longer
counted (PEP 683, which names forked workers as a reason), but Python has no call that sets this value. `None` has it,
so it is read from there. Nothing is done in a version of Python that the tests did not run on (`VERSIONS`), where an
object does not look as expected (debug builds, builds without the GIL), and where the setting IMMORTAL_OBJECTS is off.

Strings are left alone: an immortal string in CPython is one that is interned forever, and that has to be noted in the
string itself (CPython's InternalDocs/string_interning.md).
"""

from __future__ import annotations

import ctypes
import gc
import sys
import sysconfig
import types
from typing import Final

__all__ = ["VERSIONS", "is_possible", "make_immortal"]

#: The versions of CPython that this was tested with: tests/integration/worker/test_before_the_fork.py.
VERSIONS: Final = ((3, 12), (3, 13))

#: From this count on, an object is immortal; CPython itself checks the sign of the lower half.
_LEAST: Final = 2**31
#: The whole address space, on any processor.
_MEMORY_WORDS: Final = 2**57 // 4
#: Objects that are followed together: a call for each takes longer, and all at once need more memory.
_AT_ONCE: Final = 200
#: Strings, and objects that run or may run again, and so refer to objects that will be freed.
_NOT: Final = (str, types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


def make_immortal() -> int:
    """Make every object immortal that the garbage collector can reach, except strings.

    Return how many; 0 if that is not possible.
    """
    if not is_possible():
        return 0
    count = _count(None)
    memory = (ctypes.c_uint32 * _MEMORY_WORDS).from_address(0)  # one view for all counts
    found = _reachable()
    for address in found:
        memory[address // 4] = count
    return len(found)


def is_possible() -> bool:
    """Return whether this is an interpreter whose objects can be made immortal."""
    return (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in VERSIONS
        and _count(None) >= _LEAST
        and _is_laid_out_as_expected()
    )


def _count(thing: object) -> int:
    """Return the lower half of an object's reference count, which is its first field."""
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
    """Return the addresses of the objects that are alive, except those created here."""
    todo = [thing for thing in gc.get_objects() if not isinstance(thing, _NOT)]
    found = set(map(id, todo))
    while todo:
        some, todo[-_AT_ONCE:] = todo[-_AT_ONCE:], []
        for thing in gc.get_referents(*some):
            if id(thing) not in found and not isinstance(thing, _NOT):
                found.add(id(thing))
                todo.append(thing)
    return found
