"""Orders to the journal's thread: each has a future for its result, or none if nobody waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from proxy.store.deeds import Deed
    from proxy.store.names import Name
    from proxy.store.record import Record

__all__ = ["Audit", "Enter", "Failures", "Find", "Oldest", "Order", "Put", "Search", "Unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Record this."""

    record: Record
    keep: bool
    #: None: nobody waits.
    done: asyncio.Future[None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Return what is known about one job."""

    column: str
    value: str | bytes
    done: asyncio.Future[Record | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Return the newest job with this name, or where to go on, like `JournalFile.search`."""

    name: Name
    below: int
    done: asyncio.Future[tuple[Record | None, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Return the last jobs that ended without a result."""

    limit: int
    done: asyncio.Future[list[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """Return the open jobs."""

    done: asyncio.Future[list[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enter:
    """Record operators' actions, oldest first."""

    deeds: list[Deed]
    #: Nobody waits.
    done: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Return operators' actions, like `JournalFile.deeds`."""

    limit: int
    before: int | None
    done: asyncio.Future[list[Deed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Oldest:
    """Return the end of the job that ended first."""

    done: asyncio.Future[float | None]


Order = Enter | Audit | Oldest | Put | Find | Search | Failures | Unfinished
