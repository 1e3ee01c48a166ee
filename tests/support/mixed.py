"""The order of tests for several processes, in which those that wait run beside those that compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

__all__ = ["mixed"]

#: Only unit tests are short enough for the end of a run: a process that has no more tests does nothing.
_LAST: Final = 0.9
#: Successive multiples of it, less their whole parts, are spread evenly from 0 to 1.
_GOLDEN: Final = 0.618034


def mixed(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Spread the tests of each file over the whole run. Those of a group stay together: they share fixtures."""
    alone = [item for item in items if item.get_closest_marker("xdist_group") is None]
    sizes = Counter(item.path for item in alone)
    begins = {path: number * _GOLDEN % 1 for number, path in enumerate(sizes)}
    seen: Counter[Path] = Counter()
    places = {}
    for item in alone:
        place = (seen[item.path] + begins[item.path]) / sizes[item.path]
        places[item] = place if item.nodeid.startswith("tests/unit/") else place * _LAST
        seen[item.path] += 1
    return [item for item in items if item not in places] + sorted(alone, key=lambda item: places[item])
