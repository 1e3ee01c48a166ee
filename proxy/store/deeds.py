"""The audit entries: what operators did. A store keeps a limited number of the newest beside the jobs."""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

import msgspec

from proxy import log
from shared.errors import Code

__all__ = ["KEPT", "KEPT_MINOR", "Deed", "Deeds", "WaitingDeeds", "tell_dropped", "with_waiting"]

#: How many entries of operators' actions are kept; and how many minor ones: log-ins, log-outs and forbidden attempts.
#: Anybody who reaches the address could fill a list with the latter, so they have a list of their own.
KEPT: Final = 10_000
KEPT_MINOR: Final = 1_000
#: How many of each kind may wait for a store that cannot be written.
_WAITING: Final = 1_000
_COMINGS: Final = frozenset({"log-in", "log-out", "failed log-in"})


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One entry."""

    #: Unix seconds.
    at: float
    #: What was done, in a word: `stop`, `pause`, `failed log-in`.
    what: str
    #: The operator's key or user name; empty: not known, as no authentication was required.
    who: str = ""
    #: How the operator was identified: `key`, `session`, `header`, `address`.
    via: str = ""
    #: The address of the client.
    peer: str = ""
    #: The name of the instance at which it was done, if there are several.
    instance: str = ""
    #: The id of the job that was acted on; empty: none.
    of: str = ""
    #: `done`, or the code of the refusal.
    outcome: str = "done"
    #: More details.
    detail: str = ""
    #: Unique, so that an entry that is written twice is stored once.
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    #: Its place in the list, given by the store: the larger, the newer.
    n: int = 0

    @property
    def is_minor(self) -> bool:
        """Whether this is a log-in, a log-out or a forbidden attempt."""
        return self.what in _COMINGS or self.outcome == Code.FORBIDDEN


class Deeds:
    """The newest entries of both kinds, in memory."""

    def __init__(self, kept: int = KEPT, kept_minor: int = KEPT_MINOR) -> None:
        self._of_kind: dict[bool, deque[Deed]] = {False: deque(maxlen=kept), True: deque(maxlen=kept_minor)}

    def add(self, deed: Deed) -> None:
        """Add an entry that has its number already; the oldest of its kind may be dropped."""
        self._of_kind[deed.is_minor].append(deed)

    def newest(self, limit: int, before: int | None) -> list[Deed]:
        """Return at most `limit` entries, newest first, of those with a number below `before`."""
        every = (deed for of_kind in self._of_kind.values() for deed in of_kind)
        older = [deed for deed in every if before is None or deed.n < before]
        return sorted(older, key=lambda deed: -deed.n)[:limit]


class WaitingDeeds:
    """Entries that are still to be written: a limited number of each kind; beyond that, the oldest are dropped."""

    def __init__(self, most: int = _WAITING) -> None:
        self._of_kind: dict[bool, deque[tuple[int, Deed]]] = {kind: deque(maxlen=most) for kind in (False, True)}
        self._added = 0
        #: How many were dropped since the last `clear`.
        self.dropped = 0

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._of_kind.values()))

    def add(self, deed: Deed) -> None:
        """Add one."""
        of_kind = self._of_kind[deed.is_minor]
        self.dropped += len(of_kind) == of_kind.maxlen
        of_kind.append((self._added, deed))
        self._added += 1

    def pending(self) -> list[Deed]:
        """Return them, the oldest first."""
        return [deed for _, deed in sorted(itertools.chain(*self._of_kind.values()), key=itemgetter(0))]

    def clear(self) -> None:
        """Forget the entries, as they are stored elsewhere; the log says how many were dropped before."""
        for of_kind in self._of_kind.values():
            of_kind.clear()
        tell_dropped(self.dropped)
        self.dropped = 0


def with_waiting(stored: list[Deed], waiting: Iterable[Deed], last: int, limit: int, before: int | None) -> list[Deed]:
    """Return a page of stored entries with those that wait to be stored, oldest first, under their future numbers.

    `last`: the highest number that is stored.
    """
    numbered = [msgspec.structs.replace(deed, n=n) for n, deed in enumerate(waiting, start=last + 1)]
    newer = [deed for deed in reversed(numbered) if before is None or deed.n < before]
    return [*newer, *stored][:limit]


def tell_dropped(entries: int) -> None:
    """Log how many entries are only in the log, if there are any."""
    if entries:
        log.event("warning", "the audit list lacks entries, which only the log has", entries=entries)
