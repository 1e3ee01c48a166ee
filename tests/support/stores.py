"""Stores for tests, and a comparison of their records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from proxy.store.postgresql.leases import Times
from proxy.store.postgresql.opening import open_store
from proxy.store.postgresql.store import PostgreSQLStore
from proxy.store.protocol import JobStore
from proxy.store.record import Record

__all__ = ["BRISK", "Heard", "MakeStore", "alike", "of", "on_database"]

MakeStore = Callable[[float], Awaitable[JobStore]]
#: A lease that is short enough for a test, with shorter beats and polls.
BRISK: Final = Times(lease_s=1.5, beat_s=0.2, poll_s=0.1)
#: By how much the readings of the database's clock and of our own may differ on a busy machine.
_CLOCKS_S: Final = 5.0


@dataclass(eq=False)
class Heard:
    """The notifications that an instance got from its store."""

    changed: list[Record] = field(default_factory=list)
    taken_over: list[Record] = field(default_factory=list)
    given_up: list[Record] = field(default_factory=list)
    #: What the instance says of itself.
    is_draining: bool = False

    def take(self, records: Sequence[Record]) -> None:
        """Note jobs that were taken over."""
        self.taken_over += records


async def on_database(
    url: str, *, ttl_s: float = 3600, name: str = "a", times: Times = BRISK, heard: Heard | None = None
) -> PostgreSQLStore:
    """Return the store of an instance that shares a database; with `heard`, it also takes over from others."""
    doubts: list[str] = []
    store = await open_store(url, ttl_s=ttl_s, name=name, warn=doubts.append, times=times)
    if heard is not None:
        store.watch(
            on_changed=heard.changed.append,
            on_taken_over=heard.take,
            on_given_up=heard.given_up.extend,
            is_draining=lambda: heard.is_draining,
        )
    return store


def of(store: JobStore, record: Record) -> Record:
    """Return the record as if the instance with this store had made it."""
    instance = store.instance if isinstance(store, PostgreSQLStore) else ""
    return replace(record, owner=instance, origin=instance)


def alike(found: Record | None, expected: Record) -> bool:
    """Whether this is the same record, except for the rounding of times in the conversion between clocks."""
    if found is None:
        return False
    times = [(found.accepted_at, expected.accepted_at), (found.deadline_at, expected.deadline_at)]
    if found.finished_at is None or expected.finished_at is None:
        times.append((found.finished_at or 0.0, expected.finished_at or 0.0))
    else:
        times.append((found.finished_at, expected.finished_at))
    near = all(abs(one - other) < _CLOCKS_S for one, other in times)
    same_times = {"accepted_at": 0.0, "deadline_at": 0.0, "finished_at": None}
    return near and replace(found, **same_times) == replace(expected, **same_times)
