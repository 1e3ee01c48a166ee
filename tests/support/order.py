"""The order of the tests, where several processes run them: tests that wait and tests that compute side by side.

In the order of their files, all processes meet neighbours, which often wait for the same kind of thing: two cores were
idle for half a minute of five. So the tests of tests/unit and tests/integration are shuffled, always in the
same way. What takes longer comes first, so that nobody waits for it at the end. The tests of a group keep their order:
they share what is made once for their file.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["shuffle"]

_SEED = 1


def shuffle(items: list[pytest.Item], tests: Path) -> None:
    """Reorder the items; `tests` is the folder of all of them."""
    first = [item for item in items if _comes_first(item, tests)]
    others = [item for item in items if not _comes_first(item, tests)]
    random.Random(_SEED).shuffle(others)  # each process has to come to the same order
    items[:] = first + others


def _comes_first(item: pytest.Item, tests: Path) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("long", "xdist_group"))
    return marked or item.path.relative_to(tests).parts[0] not in {"unit", "integration"}
