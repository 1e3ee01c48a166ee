"""Fills the gaps in Python's memory pools, so that workers allocate from new pools.

Imports leave gaps: CPython has pools for small objects of each size, and hundreds of them have some free places. A
worker's objects would use these, scattered over many pages, and the kernel would copy a page for each. So the free
places are filled before the fork, with objects that stay.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["fill_holes"]

#: CPython's pools: one kind for each size, in steps of 16 bytes; the first object in a pool is at this offset.
_SIZES: Final = range(16, 513, 16)
_POOL_BYTES: Final = 16 << 10
_POOL_HEAD_BYTES: Final = 48
_BYTES_HEAD_BYTES: Final = sys.getsizeof(b"")
#: If pools are laid out differently, at most this much is allocated for a size.
_MOST_BYTES: Final = 4 * _POOL_BYTES
_filling: Final[list[object]] = []


def fill_holes() -> None:
    """Fill the free places of each size until a new pool is started."""
    for size in _SIZES:
        before = 0
        for _ in range(_MOST_BYTES // size):
            thing = _thing(size)
            _filling.append(thing)
            if before % _POOL_BYTES == _POOL_HEAD_BYTES and id(thing) == before + size:
                break  # the first two of a pool
            before = id(thing)


def _thing(size: int) -> object:
    """Return a new object of `size` bytes."""
    match size:
        case 16:
            return object()
        case 32:
            return float(len(_filling))
        case _:
            return bytes(size - _BYTES_HEAD_BYTES)
