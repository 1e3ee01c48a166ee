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

__all__ = ["Heap"]

_HUGE_BYTES = 2 << 20
#: mallopt(3): by how much more than is needed the heap grows, and from which size on memory does not come from it.
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_UNTIL_LOADED = {_M_TOP_PAD: 2 * _HUGE_BYTES, _M_MMAP_THRESHOLD: 32 << 20}
_DEFAULT_BYTES = 128 << 10
#: madvise(2): make huge pages of what is there, now; since Linux 6.1.
_MADV_COLLAPSE = 25
_PYMEM_DOMAIN_RAW = 0


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
        if not hasattr(self._libc, "mallopt"):
            return
        ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(self._before))
        for parameter in _UNTIL_LOADED:
            self._libc.mallopt(parameter, _DEFAULT_BYTES)
        begin, end = _heap()
        first, last = -(begin // -_HUGE_BYTES) * _HUGE_BYTES, end // _HUGE_BYTES * _HUGE_BYTES
        if first < last:
            self._libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_COLLAPSE)


def _heap() -> tuple[int, int]:
    """Return where the heap begins and ends."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:  # noqa: PTH123 - pathlib loads too much
        for line in maps:
            if line.endswith("[heap]\n"):
                begin, end = line.split(maxsplit=1)[0].split("-")
                return int(begin, 16), int(end, 16)
    return 0, 0
