"""What every store of jobs can do."""

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
    """A figure of the store, for the metrics."""

    #: The name of the metric, without the common prefix.
    name: str
    help: str
    value: float
    #: Whether it never decreases.
    counter: bool = False


class JobStore(Protocol):
    """A place to remember jobs. Each record is complete: the last one counts.

    Every later request finds what was put. A finished job is forgotten after its time.
    """

    @property
    def trouble(self) -> str:
        """Why nothing can be recorded now, as a sentence for a person; empty if all is well."""
        ...

    def readings(self) -> Iterable[Reading]:
        """Return the store's own figures."""
        ...

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """Remember `record`, in place of an earlier one with the same id.

        The future is done when the record will be found again whatever dies next; it fails with StoreUnavailableError
        if that is impossible now. With `keep`, the store keeps trying even then.
        """
        ...

    def note(self, record: Record) -> None:
        """Remember `record` as `put` with `keep` does, but when there is time; nobody waits for it."""
        ...

    async def by_id(self, job_id: str) -> Record | None:
        """Return the job with this id, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_token(self, hashed: bytes) -> Record | None:
        """Return the job whose callback token has this hash, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_key(self, key: bytes) -> Record | None:
        """Return the last job that was begun with this key, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def unfinished(self) -> list[Record]:
        """Return the jobs that an earlier process left open."""
        ...

    async def close(self) -> None:
        """Finish what is in progress."""
        ...
