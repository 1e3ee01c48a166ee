"""A store's description of itself, for operators."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["About", "Instance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One of those that share a store."""

    id: str
    #: Its name.
    name: str
    #: Unix seconds.
    started_at: float
    #: The age of its last heartbeat.
    beat_s: float
    #: Whether it is this one.
    self: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A store as it is now."""

    #: A file, or a database without its password; empty: memory.
    place: str
    size_bytes: int
    #: When the job ended that has been over for the longest of those that are remembered, in Unix seconds; None: none.
    oldest_at: float | None
    instances: tuple[Instance, ...] = ()
