"""What operators did: entries that a store keeps beside the jobs, so many of the newest."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

import msgspec

from shared.errors import Code

__all__ = ["KEPT", "KEPT_MINOR", "Deed", "Deeds", "newest"]

#: So many of what was done are kept; and so many of who came and went, and of what was forbidden, which anybody who
#: reaches the address could fill a list with: they never take the room of the former.
KEPT: Final = 10_000
KEPT_MINOR: Final = 1_000
_COMINGS: Final = frozenset({"log-in", "log-out", "failed log-in"})


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One entry."""

    #: Unix seconds.
    at: float
    #: What was done, in a word: `stop`, `pause`, `failed log-in`.
    what: str
    #: Whose key or user name; empty: nobody was asked who they are.
    who: str = ""
    #: How they were known: `key`, `session`, `header`, `address`.
    via: str = ""
    #: The address that it came from.
    peer: str = ""
    #: What people call the instance at which it was done, where there are several.
    instance: str = ""
    #: The id of the job that it was done to; empty: to none.
    of: str = ""
    #: `done`, or the code of the refusal.
    outcome: str = "done"
    #: What else was said of it.
    detail: str = ""
    #: Unlike that of any other, so that one that is written twice is there once.
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    #: Its place in the list, given by the store: the larger, the newer.
    n: int = 0

    @property
    def is_minor(self) -> bool:
        """Whether somebody came or went, or tried to do what they may not."""
        return self.what in _COMINGS or self.outcome == Code.FORBIDDEN


def newest(deeds: list[Deed], kept: int) -> list[Deed]:
    """Return so many of the newest of either kind, in the order in which they are given."""
    ids = {deed.id for kind in (False, True) for deed in [one for one in deeds if one.is_minor is kind][-kept:]}
    return [deed for deed in deeds if deed.id in ids]


class Deeds:
    """The newest of both kinds, in memory."""

    def __init__(self, kept: int = KEPT, kept_minor: int = KEPT_MINOR) -> None:
        self._of_kind: dict[bool, deque[Deed]] = {False: deque(maxlen=kept), True: deque(maxlen=kept_minor)}

    def add(self, deed: Deed) -> None:
        """Add one, which has its place already; the oldest of its kind may go."""
        self._of_kind[deed.is_minor].append(deed)

    def newest(self, limit: int, before: int | None) -> list[Deed]:
        """Return at most so many, newest first, of those before that place."""
        every = (deed for of_kind in self._of_kind.values() for deed in of_kind)
        older = [deed for deed in every if before is None or deed.n < before]
        return sorted(older, key=lambda deed: -deed.n)[:limit]
