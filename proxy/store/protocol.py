"""The interface of every store of jobs, and the additional one of a store that several instances share.

A shared store writes a record under a condition; each condition is one statement. It follows from the record that is
put, and from whether this instance owns the job (`Record.owner`):

================================  ===================================================================================
what is put                       is excluded unless
================================  ===================================================================================
an open record, `owner` is me     it is new, as is its key; or what the store has is open, ACCEPTED, and mine
a record with a `callback`        what the store has is without one; a `failure` that the store has stays
a `failure`, `owner` is me        what the store has is open and mine
a `failure`, `owner` is another   what the store has is open; this is a cancellation, and its `submitted` is written as
                                  the store's own state has it then, which may be ahead of the record that is put
================================  ===================================================================================

A key is free again once its job has ended with `submitted: no` and without a callback. Each put may be executed twice
without harm, in case the first answer was lost: a record that is already stored does not exclude itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.store.query import USUAL
from shared.errors import ProxyError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from proxy.store.about import About
    from proxy.store.deeds import Deed
    from proxy.store.patterns import Grid, Patterns
    from proxy.store.query import Counts, JobPage, JobQuery, Limits, Position, Sort
    from proxy.store.record import Record

__all__ = ["JobStore", "Peers", "Reading", "TakenError"]


class TakenError(ProxyError):
    """What the store has excludes what was put, and nothing was written; raised by stores that are shared.

    Another job has the key, another instance sees to the job now, or it has ended otherwise.
    """

    def __init__(self, record: Record) -> None:
        """`record` is what holds: of this job, or of the one that has its key. It may still be open."""
        super().__init__(f"another record holds: {record.id}")
        self.record = record


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A figure of the store, for the metrics."""

    #: The name of the metric, without the common prefix.
    name: str
    help: str
    value: float
    #: Whether it never decreases.
    counter: bool = False


def gauge(name: str, words: str, value: float) -> Reading:
    """Return a figure that goes up and down; `words` say what it is."""
    return Reading(name=name, help=words, value=value)


def counter(name: str, words: str, value: float) -> Reading:
    """Return a figure that never decreases."""
    return Reading(name=name, help=words, value=value, counter=True)


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
        if that is impossible now. With `keep`, the store keeps trying even then. It fails with TakenError if what the
        store has excludes this record.
        """
        ...

    def note(self, record: Record) -> None:
        """Store `record` as `put` with `keep` does, but in the background, when there is time.

        Of a job that another instance sees to, or that has ended, only what adds to the record counts: callbacks that
        came again or were refused, outputs, the reason of a failure, and that an open job is WAITING.
        """
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

    async def by_beginning(self, beginning: str) -> Record | None:
        """Return the last job that was begun with an id that begins so (`Record.beginning`), if it is remembered.

        Raises StoreUnavailableError.
        """
        ...

    async def by_name(self, text: str) -> Record | None:
        """Return the newest remembered job with this name (`Record.is_called`); may be slow.

        A store that holds very many looks at the newest of them only. Raises StoreUnavailableError.
        """
        ...

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """Return the first `limit` matching jobs, after the end of an earlier page; may be slow.

        What was put is found once its future is done; what was noted, or waits for a store to be well again, may be
        missing. Raises StoreUnavailableError.
        """
        ...

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """Return how many of the jobs that are meant are of each kind: of the newest, if they are many.

        Raises StoreUnavailableError.
        """
        ...

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """Return how the jobs that are meant, and ended in the time of `grid`, did so: of the newest, if they are many.

        `label`: by whose values failures are told apart. Raises StoreUnavailableError.
        """
        ...

    async def ended(self, job_id: str) -> Record:
        """Return the job once any instance has recorded its end; at most half a second later.

        Waits for as long as it takes, also while the store is unavailable, and for ever if the job is not remembered:
        who has waited long enough cancels this.
        """
        ...

    def may_have_lost(self, since: float = 0.0) -> bool:
        """Return whether a job may be missing that ended after `since` (Unix seconds) and whose time is not over.

        It was forgotten for want of room; or an earlier journal, or an earlier process, had it.
        """
        ...

    async def unfinished(self) -> list[Record]:
        """Return the jobs that an earlier process left open; none where instances take over from one another."""
        ...

    async def last_failures(self, limit: int) -> list[Record]:
        """Return the jobs that failed last, newest first: for the dashboard after a start.

        At most `limit`, of the last thousands, and none with a large body. Raises StoreUnavailableError.
        """
        ...

    @property
    def kind(self) -> str:
        """`memory`, `sqlite` or `postgresql`."""
        ...

    async def about(self) -> About:
        """Return what there is to say of the store now. Raises StoreUnavailableError."""
        ...

    def enter(self, deed: Deed) -> None:
        """Store an audit entry in the background, as soon as possible. Never fails.

        So many of the newest are kept (proxy/store/deeds.py). `deed.n` is not used.
        """
        ...

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """Return what operators did, of all instances that share the store, newest first; what was entered before too.

        At most `limit`; with `before`, only what has a lower `n`. Raises StoreUnavailableError.
        """
        ...

    async def close(self) -> None:
        """Finish what is in progress."""
        ...


class Peers(Protocol):
    """The other instances that share a store with this one, which that store knows."""

    @property
    def instance(self) -> str:
        """The id of this instance: `Record.owner` of the jobs that it owns. New at each start of the process."""
        ...

    @property
    def name(self) -> str:
        """The name of this instance."""
        ...

    def watch(self, *, on_changed: Callable[[Record], None], on_taken_over: Callable[[Sequence[Record]], None]) -> None:
        """Have these called from now on, on the event loop. Nothing is taken over before.

        `on_changed`: another instance has told of a job (`tell`) that is owned or was accepted here; with the record as
        the store has it now. It may be missed: what counts is found by `JobStore.ended`.

        `on_taken_over`: these jobs of instances that are gone are this one's now, each once. Those that were ACCEPTED
        have been finished by the same statement, as `interrupted` and `no`. The others are open.
        """
        ...

    def tell(self, record: Record) -> None:
        """Let the instances that own and that accepted a job know that something was recorded of it; not this one.

        They find what was noted before as well. Does not wait and does not fail.
        """
        ...
