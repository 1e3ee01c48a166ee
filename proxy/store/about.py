"""A store's description of itself, for operators."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["About", "Instance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One of the instances that share a store."""

    id: str
    #: Its name.
    name: str
    #: Unix seconds.
    started_at: float
    #: The age of its last heartbeat.
    beat_s: float
    #: Whether it is this instance.
    self: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The current state of a store."""

    #: A file, or a database's address without its password; empty: memory.
    place: str
    size_bytes: int
    #: When the first of the remembered finished jobs ended, in Unix seconds; None: there are none.
    oldest_at: float | None
    instances: tuple[Instance, ...] = ()
