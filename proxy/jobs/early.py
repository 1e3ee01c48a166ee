"""Callbacks at a fixed URL for jobs that are not known yet: they may come before the reply that names the job."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["EarlyNames"]

_MAX_NAMES: Final = 1_000


class EarlyNames:
    """Remembers the last names in such callbacks. A job that learns one of them knows that a callback came for it."""

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def keep(self, profile: str, name: str) -> None:
        """Remember a name that no job of this profile has yet."""
        self._names[profile, name] = True
        self._names.move_to_end((profile, name))
        if len(self._names) > _MAX_NAMES:
            self._names.popitem(last=False)

    def pop(self, profile: str, name: str) -> bool:
        """Return whether a callback came for this name, and forget the name."""
        return self._names.pop((profile, name), False)
