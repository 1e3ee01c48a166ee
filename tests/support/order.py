"""The order of the tests, where several processes run them: tests that wait and tests that compute side by side.

In the order of their files, seven processes meet seven neighbours, which often wait for the same: two cores were idle
for half a minute of five. So each test of tests/integration, many of which wait, is followed by some of tests/unit, few
of which do. Longer ones come first, so that nobody waits for one at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

__all__ = ["mix", "mixed"]

_T = TypeVar("_T")


def mix(items: list[pytest.Item], tests: Path) -> None:
    """Reorder the items; `tests` is the folder of all of them."""
    first: list[pytest.Item] = []
    waiting: list[pytest.Item] = []
    computing: list[pytest.Item] = []
    for item in items:
        folder = item.path.relative_to(tests).parts[0]
        if folder in {"unit", "integration"} and not item.get_closest_marker("long"):
            (computing if folder == "unit" else waiting).append(item)
        else:
            first.append(item)
    items[:] = first + mixed(waiting, computing)


def mixed(some: Sequence[_T], others: Sequence[_T]) -> list[_T]:
    """Return all of both, each in its order, spread as evenly as their numbers allow."""
    places = [((n + 0.5) / len(some), 0, one) for n, one in enumerate(some)]
    places += [((n + 0.5) / len(others), 1, one) for n, one in enumerate(others)]
    return [one for _, _, one in sorted(places, key=lambda place: place[:2])]
