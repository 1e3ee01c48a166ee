"""The interface of every store of jobs, and the additional one of a store that several instances share.

A shared store writes a record under a condition, each with one statement. The condition follows from the record that is
put, and from whether this instance owns the job (`Record.owner`):

================================  ===================================================================================
what is put                       is excluded unless
================================  ===================================================================================
an open record, `owner` is me     the job and its key are new; or the stored record is open and mine
a record with a `callback`        the stored record has none; a stored `failure` stays
a `failure`, `owner` is me        the stored record is open and mine
a `failure`, `owner` is another   the stored record is open; this is a cancellation, and its `submitted` follows from
                                  the stored state, which may be ahead of the record that is put
================================  ===================================================================================

A key is free again once its job has ended with `submitted: no` and without a callback. Each put may be executed twice
without harm, in case the first answer was lost: a record that is already stored does not exclude itself. But a stored
callback excludes the same one if that is put for the first time: it came to two instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from proxy.store.query import USUAL
from shared.errors import ProxyError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from proxy.store.about import About
    from proxy.store.deeds import Deed
    from proxy.store.names import Name
    from proxy.store.patterns import Grid, Patterns
    from proxy.store.query import Counts, JobPage, JobQuery, Limits, Position, Sort
    from proxy.store.record import Record

__all__ = ["ALL", "JobStore", "Peers", "Reading", "TakenError"]

#: More than any store has.
ALL: Final = 2**63 - 1


class TakenError(ProxyError):
    """A stored record excludes the record that was put, so nothing was written; raised by shared stores.

    Another job has the key, another instance owns the job now, or the job has ended in another way.
    """

    def __init__(self, record: Record) -> None:
        """`record` is the stored one: of this job, or of the job that has its key. It may still be open."""
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
    """Return a figure that goes up and down; `words` describe it."""
    return Reading(name=name, help=words, value=value)


def counter(name: str, words: str, value: float) -> Reading:
    """Return a figure that never decreases."""
    return Reading(name=name, help=words, value=value, counter=True)


class JobStore(Protocol):
    """A place to remember jobs. Each record is complete and replaces the previous one.

    Later look-ups find what was put. A finished job is forgotten after its time to live.
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

        The future is done once the record survives any crash; it fails with StoreUnavailableError if that is impossible
        now. With `keep`, the store keeps trying even then. It fails with TakenError if a stored record excludes this
        one.
        """
        ...

    def note(self, record: Record) -> None:
        """Store `record` as `put` with `keep` does, but in the background, when there is time.

        If another instance owns the job, or the job has ended, only additions are stored: duplicate and refused
        callbacks, outputs, the reason of a failure, and that an open job is WAITING.
        """
        ...

    async def by_id(self, job_id: str) -> Record | None:
        """Return the job with this id, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_token(self, hashed: bytes) -> Record | None:
        """Return the job whose callback token has this hash, if it is remembered. Raises StoreUnavailableError."""
        ...

    async def by_key(self, key: bytes) -> Record | None:
        """Return the job that holds this key, or else the newest one with it, if it is remembered.

        Raises StoreUnavailableError.
        """
        ...

    async def by_beginning(self, beginning: str) -> Record | None:
        """Return the newest job whose id begins like this (`Record.beginning`), if it is remembered.

        Raises StoreUnavailableError.
        """
        ...

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """Return the newest remembered job with this name; may be slow.

        Looks at `among` of the newest jobs, or some more; a large store, only at its newest. Raises
        StoreUnavailableError.
        """
        ...

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """Return the first `limit` matching jobs, after the end of an earlier page; may be slow.

        A record that was put is found once its future is done. Notes, and records that wait for an unavailable store,
        may be missing. Raises StoreUnavailableError.
        """
        ...

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """Count the matching jobs of each kind; only the newest, if there are many.

        Raises StoreUnavailableError.
        """
        ...

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """Return how the matching jobs that ended within `grid` ended; only the newest, if there are many.

        `label`: the label by whose values failures are grouped. Raises StoreUnavailableError.
        """
        ...

    async def ended(self, job_id: str) -> Record:
        """Return the job once any instance has recorded its end; at most half a second later.

        Waits for as long as it takes, even while the store is unavailable, and forever if the job is not remembered;
        the caller cancels it after its own timeout.
        """
        ...

    def may_have_lost(self, since: float = 0.0) -> bool:
        """Return whether a job that ended after `since` (Unix seconds) may have been forgotten before its time.

        Either there was no room for it, or only an earlier journal or process knew it.
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
        """Return the store's description of itself. Raises StoreUnavailableError."""
        ...

    def enter(self, deed: Deed) -> None:
        """Store an audit entry in the background, as soon as possible. Never fails.

        A limited number of the newest is kept (proxy/store/deeds.py). `deed.n` is ignored.
        """
        ...

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """Return the audit entries of all instances that share the store, newest first, including those just entered.

        At most `limit`; with `before`, only those with a lower `n`. Raises StoreUnavailableError.
        """
        ...

    async def close(self) -> None:
        """Finish the work in progress."""
        ...


class Peers(Protocol):
    """The instances that share a store, as that store knows them."""

    @property
    def instance(self) -> str:
        """The id of this instance: `Record.owner` of the jobs that it owns. New at each start of the process."""
        ...

    @property
    def name(self) -> str:
        """The name of this instance."""
        ...

    def watch(
        self,
        *,
        on_changed: Callable[[Record], None],
        on_taken_over: Callable[[Sequence[Record]], None],
        on_given_up: Callable[[Sequence[Record]], None] = lambda _: None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """Have these called from now on, on the event loop. Nothing is taken over before.

        `on_changed`: another instance announced news (`tell`) of a job that is owned or was accepted here, or of any;
        called with the stored record. An announcement may be lost, so `JobStore.ended` does not depend on it.

        `on_taken_over`: this instance has taken over these jobs from instances that are gone, each once. Those that
        were ACCEPTED have been finished by the same statement, as `interrupted` and `no`. The others are open.

        `on_given_up`: these jobs have ended, after their deadlines or by a cancellation, and their instances seem to be
        gone and not to know: this one has to cancel them at the job server.

        `is_draining`: whether this instance is about to end, so that it leaves jobs to the others.
        """
        ...

    def tell(self, record: Record, *, to_all: bool = False) -> None:
        """Notify the instances that own or accepted a job, except this one, that something was recorded of it.

        With `to_all`, notify all instances. They find earlier notes as well. Does not wait and does not fail.
        """
        ...
