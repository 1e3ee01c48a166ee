"""Where the memory of the fork server lies: side by side in huge pages, which the kernel copies and frees by the run.

A fork copies an entry of the page tables for each page that was written to, and the end of a process frees each of
them. Where pages lie side by side in a huge page, the kernel does that for many at once, also after some of them have
been copied. A huge page takes two megabytes in one piece, and Python gets its memory in pieces of one, which the kernel
puts into the gaps between libraries. So as long as modules are loaded, Python gets it from malloc, and malloc from the
heap.

This is the first module that a fork server loads, and so it loads as little as it can.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["Heap"]

_HUGE_BYTES = 2 << 20
#: mallopt(3): by how much more than is needed the heap grows, and from which size on memory does not come from it.
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_UNTIL_LOADED = {_M_TOP_PAD: 2 * _HUGE_BYTES, _M_MMAP_THRESHOLD: 32 << 20}
_DEFAULT_BYTES = 128 << 10
#: madvise(2): make huge pages of what is there, now; since Linux 6.1.
_MADV_COLLAPSE = 25
#: prctl(2): no further huge pages for this process and its children.
_PR_SET_THP_DISABLE = 41
_PYMEM_DOMAIN_RAW = 0
#: Python has a pool for small objects of each size, in steps of 16 bytes; what comes first in it is this far inside.
_POOL_BYTES = 16 << 10
_POOL_HEAD_BYTES = 48
_BYTES_HEAD_BYTES = sys.getsizeof(b"")
_SIZES = range(16, 513, 16)
#: What fills up a pool; never let go.
_filling: list[object] = []


class _Allocator(ctypes.Structure):
    """PyMemAllocatorEx: where Python's raw memory comes from."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]


class _ArenaAllocator(ctypes.Structure):
    """PyObjectArenaAllocator: where the memory for Python's small objects comes from, an arena at a time."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "alloc", "free")]


class Heap:
    """Takes the memory of what is loaded from now on.

    An arena that becomes empty is unmapped as ever. The kernel refuses that for one that came from malloc, or it is a
    part of a block that malloc never gets back; both do no harm, and neither happens where what is loaded stays.
    """

    def __init__(self) -> None:
        """Without effect where the C library is not glibc."""
        self._libc = ctypes.CDLL(None)
        self._before = _ArenaAllocator()
        ctypes.pythonapi.PyObject_GetArenaAllocator(ctypes.byref(self._before))
        if not hasattr(self._libc, "mallopt"):
            return
        for parameter, value in _UNTIL_LOADED.items():
            self._libc.mallopt(parameter, value)
        raw = _Allocator()
        ctypes.pythonapi.PyMem_GetAllocator(_PYMEM_DOMAIN_RAW, ctypes.byref(raw))
        ours = _ArenaAllocator(ctx=raw.ctx, alloc=raw.malloc, free=self._before.free)
        ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(ours))

    def settle(self) -> None:
        """Make huge pages of what was taken, as far as it fills whole ones; further memory comes from where it did."""
        _begin_new_pools()
        if not hasattr(self._libc, "mallopt"):
            return
        ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(self._before))
        for parameter in _UNTIL_LOADED:
            self._libc.mallopt(parameter, _DEFAULT_BYTES)
        begin, end = _heap()
        first, last = -(begin // -_HUGE_BYTES) * _HUGE_BYTES, end // _HUGE_BYTES * _HUGE_BYTES
        if first < last:
            self._libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_COLLAPSE)
        self._libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a worker must not get two megabytes where it needs a page


def _begin_new_pools() -> None:
    """Fill the pools up, so that what is made next lies at the beginning of new ones, and not in holes everywhere."""
    for size in _SIZES:
        before = 0
        for _ in range(4 * _POOL_BYTES // size):  # so that other pools than expected do no harm
            thing = _thing(size)
            _filling.append(thing)
            if before % _POOL_BYTES == _POOL_HEAD_BYTES and id(thing) == before + size:
                break  # the first two
            before = id(thing)


def _thing(size: int) -> object:
    """Return a new object that takes `size` bytes."""
    match size:
        case 16:
            return object()
        case 32:
            return float(len(_filling))
        case _:
            return bytes(size - _BYTES_HEAD_BYTES)


def _heap() -> tuple[int, int]:
    """Return where the heap begins and ends."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:  # noqa: PTH123 - pathlib loads too much
        for line in maps:
            if line.endswith("[heap]\n"):
                begin, end = line.split(maxsplit=1)[0].split("-")
                return int(begin, 16), int(end, 16)
    return 0, 0
