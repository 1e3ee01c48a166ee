"""What every store of jobs does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from proxy.store.record import Record

__all__ = ["JobStore", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A figure that a store has to tell, for the metrics."""

    #: The metric's name, without the prefix that all of them have.
    name: str
    help: str
    value: float
    #: Whether it only ever grows.
    counter: bool = False


class JobStore(Protocol):
    """A place to remember jobs. It has to be told everything about a job each time: the last record counts.

    What was put is found by whoever asks afterwards. A finished job is forgotten when its time is over.
    """

    @property
    def trouble(self) -> str:
        """Why nothing can be recorded now, as a sentence for a person; empty if nothing stands against it."""
        ...

    def readings(self) -> Iterable[Reading]:
        """Return how the store does, in figures of its own."""
        ...

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Remember `record`, in place of an earlier one with the same id.

        The future is done when the record will be found again, whatever dies next; it fails with StoreUnavailableError
        when that cannot be had now. With `keep`, the store goes on trying even then.
        """
        ...

    def note(self, record: Record) -> None:
        """Remember `record`, as `put` with `keep` does, but when there is time; nobody waits for it."""
        ...

    async def by_id(self, job_id: str) -> Record | None:
        """Return the job with this id, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_token(self, hashed: bytes) -> Record | None:
        """Return the job whose callback token has this hash, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_key(self, key: bytes) -> Record | None:
        """Return the last job that was begun under this key, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def unfinished(self) -> list[Record]:
        """Return the jobs that were left open by whoever wrote here before."""
        ...

    async def close(self) -> None:
        """Finish what is under way."""
        ...
