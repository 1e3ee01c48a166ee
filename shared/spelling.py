"""Finds the known name that a misspelt one probably means."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["nearest"]

#: The maximum number of mistakes in a misspelling.
_MOST: Final = 2
#: Two mistakes are accepted only in names of at least this length; shorter names may be similar by accident.
_LONG: Final = 8


def nearest(name: str, known: Collection[str]) -> str:
    """Return the known name that `name` is a misspelling of, or an empty string.

    A misspelling differs in case or has `-` for `_`, or one letter is added, missing, wrong, or swapped with its
    neighbour; in a long name, two.
    """
    wanted = name.upper().replace("-", "_")
    letters = set(wanted)
    distances = {
        candidate: _distance(wanted, candidate)
        for candidate in known
        # These bounds rule out most candidates in a fiftieth of the time.
        if abs(len(candidate) - len(wanted)) <= _MOST and len(letters ^ set(candidate)) <= 2 * _MOST
    }
    best = min(distances, key=distances.__getitem__, default="")
    if best and distances[best] <= (_MOST if len(best) >= _LONG else 1):
        return best
    return ""


def _distance(a: str, b: str) -> int:
    """Return how many letters to insert, drop, replace or swap with their neighbour to turn `a` into `b`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        earlier, before, row = before, row, [i]
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            costs = [before[j] + 1, row[j - 1] + 1, before[j - 1] + (not same)]
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                costs.append(earlier[j - 2] + 1)
            row.append(min(costs))
    return row[-1]
