"""The store that survives the process, as seen from the event loop: orders go to a thread in batches.

To record or look up something, a caller queues an order and continues. The thread has one batch at a time, and the
orders that accumulate in the meantime are the next batch: one hand-over, one statement, one commit, one wake-up of the
event loop. Each of these costs more than the contents of a batch, and even more when both threads want the GIL. So the
pause between batches grows with the number of open jobs, because more orders accumulate then: a single job does not
wait, and a burst needs few commits.

A disk can hang for any time. If the thread has been silent for a second (silence.py), and has not written a part of its
batch either, waiting callers are told, and new jobs are refused. Orders are still executed when the disk responds
again. Meanwhile only the newest record of each job is noted, so that no more memory is needed than for these jobs;
look-ups fail at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from proxy import log
from proxy.store.about import About
from proxy.store.deeds import WaitingDeeds, tell_dropped
from proxy.store.journal.answers import Answers
from proxy.store.journal.file import SEARCHED
from proxy.store.journal.orders import Ask, Enter, Order, Put
from proxy.store.journal.origin import Origin
from proxy.store.journal.reader import JournalReader
from proxy.store.journal.silence import LIMIT_S, Silence
from proxy.store.journal.writer_thread import WriterThread
from proxy.store.notes import Notes
from proxy.store.patterns import patterns
from proxy.store.polled import polled_end
from proxy.store.protocol import ALL, counter, gauge
from proxy.store.query import USUAL, remembered, within
from proxy.store.search import counts, page
from shared.errors import SettingsError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.store.deeds import Deed
    from proxy.store.journal.file import JournalFile
    from proxy.store.names import Name
    from proxy.store.patterns import Grid, Patterns
    from proxy.store.protocol import Reading
    from proxy.store.query import Counts, JobPage, JobQuery, Limits, Position, Sort
    from proxy.store.record import Record

__all__ = ["Journal"]

T = TypeVar("T")

_MAX_BYTES: Final = 1024**3
_CLOSE_S: Final = 2.0
#: The minimum time between the starts of two batches: this much per open job except one, up to the second value.
_PACE_S: Final = 0.0002
_LONGEST_PACE_S: Final = 0.004
#: Above any number of a row.
_BELOW: Final = 2**63 - 1


class Journal:
    """A `JobStore` on a file. Nothing here blocks: the thread in writer_thread.py reads and writes."""

    kind = "sqlite"

    def __init__(self, file: JournalFile, *, ttl_s: float, max_bytes: int = _MAX_BYTES) -> None:
        """Take over an open file; must run inside an event loop.

        A finished job is kept for `ttl_s` seconds, unless the file grows beyond `max_bytes`: then the oldest are
        deleted.
        """
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._path = str(file.path)
        self._ttl_s = ttl_s
        self._reader = JournalReader(file.path)
        self._trouble = ""
        #: Whether the log says that there is trouble.
        self._announced = False
        self._silence = Silence()
        #: Unfinished jobs by id, if they were put or noted here.
        self._open: set[str] = set()
        self._notes = Notes(self._order_notes, is_held=lambda: self._silence.now)
        #: The orders for the next batch, those that the thread has, and when it got them.
        self._waiting: list[Order] = []
        self._deeds = WaitingDeeds()
        self._away: list[Order] = []
        self._handed_at = 0.0
        #: Batches; None: the end.
        self._batches: queue.SimpleQueue[list[Order] | None] = queue.SimpleQueue()
        #: Set when the thread has executed everything, and closed the file.
        self._ended = asyncio.Event()
        self.writer = WriterThread(
            file,
            self._batches,
            ttl_s=ttl_s,
            max_bytes=max_bytes,
            tell=self._tell,
            on_trouble=self._on_trouble,
            on_end=self._ended.set,
        )
        self._silence_timer = self._loop.call_later(LIMIT_S, self._look)
        if file.origin is Origin.COPY:
            log.event(
                "warning", "the journal is an earlier copy; its open jobs may have been submitted", file=self._path
            )
        elif file.origin is Origin.CUT:
            log.event(
                "warning",
                "the machine went down while the proxy ran, or is another one; "
                "the journal may lack what was recorded last",
                file=self._path,
            )

    def may_have_lost(self, since: float = 0.0) -> bool:
        """See `JobStore.may_have_lost`."""
        return self._file.lost_before > max(since, time.time() - self._ttl_s)

    @property
    def trouble(self) -> str:
        """See `JobStore.trouble`."""
        if self._silence.now:
            reason = f"its disk has not answered for {LIMIT_S:g} s, or another program has locked it"
            return f"the journal cannot be written: {reason}"
        return f"the journal cannot be written: {self._trouble}" if self._trouble else ""

    def readings(self) -> Iterable[Reading]:
        """See `JobStore.readings`."""
        writer = self.writer
        upkeep = writer.upkeep
        queued = len(self._waiting) + len(self._deeds) + len(self._away) + len(self._notes)
        return (
            gauge("journal_unavailable", "1 while the journal is unavailable.", bool(self.trouble)),
            gauge("journal_queue", "Orders that the journal's thread has not carried out.", queued),
            gauge("journal_backlog", "Jobs that will be recorded when the journal is available again.", writer.backlog),
            gauge(
                "journal_size_bytes",
                "Size of the journal and its write-ahead log.",
                upkeep.size_bytes + upkeep.log_bytes,
            ),
            gauge("journal_limit_bytes", "How large the journal may grow.", upkeep.limit_bytes),
            counter("journal_commits", "Transactions.", writer.commits),
            counter("journal_failures", "Transactions that failed.", writer.failures),
            counter("journal_records_written", "Records written.", writer.written),
            counter("journal_records_given_up", "Records dropped because the backlog was full.", writer.given_up),
            counter("journal_jobs_expired", "Jobs deleted after RESULT_TTL.", upkeep.expired),
            counter(
                "journal_jobs_evicted",
                "Jobs deleted before RESULT_TTL, as the journal had grown to its limit.",
                upkeep.evicted,
            ),
        )

    def put(self, record: Record, *, keep: bool = False) -> asyncio.Future[None]:
        """See `JobStore.put`. If it fails because the disk does not answer, it may be executed later."""
        self._count(record)
        done: asyncio.Future[None] = self._loop.create_future()
        if self._silence.now:
            self._notes.add(record)
            _fail(done, self.trouble)
        else:
            noted = self._notes.pop(record.id)
            self._order(Put(record=record, keep=keep or noted, done=done))
        return done

    def note(self, record: Record) -> None:
        """See `JobStore.note`."""
        self._count(record)
        self._notes.add(record)

    def _count(self, record: Record) -> None:
        if record.finished_at is None:
            self._open.add(record.id)
        else:
            self._open.discard(record.id)

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        return await self._ask(lambda answers: answers.find("id", job_id))

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        return await self._ask(lambda answers: answers.find("token_hash", hashed))

    async def by_key(self, key: bytes) -> Record | None:
        """See `JobStore.by_key`."""
        return await self._ask(lambda answers: answers.find("key", key))

    async def by_beginning(self, beginning: str) -> Record | None:
        """See `JobStore.by_beginning`."""
        return await self._ask(lambda answers: answers.find("beginning", beginning))

    async def by_name(self, name: Name, *, among: int = ALL) -> Record | None:
        """See `JobStore.by_name`. Searches in parts, between which other orders are executed."""
        found, below, searched = None, _BELOW, 0
        while found is None and below and searched < among:
            searched += SEARCHED
            found, below = await self._ask(partial(Answers.search, name=name, below=below))
        return found

    async def jobs(
        self, query: JobQuery, *, sort: Sort, limit: int, after: Position | None = None, limits: Limits = USUAL
    ) -> JobPage:
        """See `JobStore.jobs`. In parallel to the journal's thread, which does not wait for it."""
        self._begin_asking()
        meant = remembered(query, time.time() - self._ttl_s)
        return await self._reader.ask(
            lambda dialect: page(dialect, meant, sort=sort, limit=limit, after=after, limits=limits)
        )

    async def counts(self, query: JobQuery, *, limits: Limits = USUAL) -> Counts:
        """See `JobStore.counts`. In parallel, like `jobs`."""
        self._begin_asking()
        meant = remembered(query, time.time() - self._ttl_s)
        return await self._reader.ask(lambda dialect: counts(dialect, meant, limits=limits))

    async def patterns(self, query: JobQuery, grid: Grid, label: str, *, limits: Limits = USUAL) -> Patterns:
        """See `JobStore.patterns`. In parallel, like `jobs`."""
        self._begin_asking()
        meant = within(remembered(query, time.time() - self._ttl_s), grid.since, grid.until)
        return await self._reader.ask(lambda dialect: patterns(dialect, meant, grid, label, limits=limits))

    async def ended(self, job_id: str) -> Record:
        """See `JobStore.ended`."""
        return await polled_end(self._recorded, job_id)

    async def unfinished(self) -> list[Record]:
        """See `JobStore.unfinished`. Waits as long as it takes.

        Raises:
            SettingsError: the journal cannot be read.
        """
        self._order_notes(self._notes.take_all())
        done: asyncio.Future[list[Record]] = self._loop.create_future()
        self._order(Ask(question=Answers.unfinished, patient=True, done=done))
        try:
            return await done
        except StoreUnavailableError as exc:
            raise SettingsError(f"JOURNAL: cannot use {self._path!r}: {exc}") from exc

    async def last_failures(self, limit: int) -> list[Record]:
        """See `JobStore.last_failures`."""
        return await self._ask(lambda answers: answers.last_failures(limit))

    async def about(self) -> About:
        """See `JobStore.about`."""
        oldest_at = await self._ask(Answers.oldest_end)
        upkeep = self.writer.upkeep
        return About(place=self._path, size_bytes=upkeep.size_bytes + upkeep.log_bytes, oldest_at=oldest_at)

    def enter(self, deed: Deed) -> None:
        """See `JobStore.enter`."""
        self._deeds.add(deed)
        self._see_to_batch()

    async def deeds(self, limit: int, before: int | None) -> list[Deed]:
        """See `JobStore.deeds`."""
        return await self._ask(lambda answers: answers.deeds(limit, before))

    async def close(self) -> None:
        """See `JobStore.close`. Waits for at most `_CLOSE_S`; what is not written by then is lost, and logged."""
        self._order_notes(self._notes.take_all())
        self._hand_over(at_the_end=True)
        self._batches.put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._ended.wait()
        self._reader.close()
        self._silence_timer.cancel()
        left = [] if self._ended.is_set() else self._away
        away = {order.record.id for order in left if isinstance(order, Put)}
        tell_dropped(sum(len(order.deeds) for order in left if isinstance(order, Enter)) + self.writer.deeds_unwritten)
        if away or self.writer.backlog:
            jobs = len(away) + self.writer.backlog
            log.event("error", "some jobs could not be recorded before the process ended", file=self._path, jobs=jobs)

    # --- orders and batches ------------------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[Answers], T]) -> T:
        self._begin_asking()
        done: asyncio.Future[T] = self._loop.create_future()
        self._order(Ask(question=question, done=done))
        return await done

    async def _recorded(self, job_id: str) -> Record | None:
        """Like `by_id`, but raises StoreUnavailableError while the record may only wait to be written."""
        record = await self.by_id(job_id)
        if self.trouble:
            raise StoreUnavailableError(self.trouble)
        return record

    def _begin_asking(self) -> None:
        if self._silence.now:
            raise StoreUnavailableError(self.trouble)
        self._order_notes(self._notes.take_all())  # a look-up must find earlier notes

    def _order_notes(self, notes: Iterable[Record]) -> None:
        for record in notes:
            self._order(Put(record=record, keep=True, done=None))

    def _order(self, order: Order) -> None:
        """Queue an order for the next batch; its future is done on the loop."""
        self._waiting.append(order)
        self._see_to_batch()

    def _see_to_batch(self) -> None:
        if len(self._waiting) + len(self._deeds) == 1 and not self._away:
            self._make_batch()

    def _make_batch(self) -> None:
        """Hand over soon: with further orders of this iteration of the loop, or when the pause is over."""
        pace_s = min(_PACE_S * (len(self._open) - 1), _LONGEST_PACE_S)
        wait_s = self._handed_at + pace_s - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._hand_over)
        else:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self, *, at_the_end: bool = False) -> None:
        """Give the waiting orders to the thread, as a batch."""
        if self._away and not at_the_end:
            return
        batch, self._waiting = self._waiting, []
        if self._deeds:
            batch.append(Enter(deeds=self._deeds.pending()))
            self._deeds.clear()
        if batch:
            self._away += batch
            self._batches.put(batch)
            self._handed_at = time.monotonic()

    # --- what the thread says, or does not ---------------------------------------------------------------------------

    def _tell(self, news: list[Callable[[], None]], orders: int) -> None:
        """Pass news from the thread to the loop; called in the thread. Raises RuntimeError if the loop is closed."""
        self._loop.call_soon_threadsafe(self._on_carried_out, news, orders)

    def _on_carried_out(self, news: list[Callable[[], None]], orders: int) -> None:
        del self._away[:orders]
        for settle in news:
            settle()
        if self._silence.now:
            self._look()
        self._say_trouble()
        if (self._waiting or self._deeds) and not self._away:
            self._make_batch()

    def _on_trouble(self, trouble: str) -> None:
        """Handle, on the loop, what is wrong with the file; empty when that is over."""
        self._trouble = trouble

    def _look(self) -> None:
        """Check whether the thread is silent; repeat for as long as there is a journal."""
        self._silence_timer.cancel()
        was_silent = self._silence.now
        since = self.writer.busy_since or (self._handed_at if self._away else None)
        again_s = self._silence.look(time.monotonic(), since)
        self._silence_timer = self._loop.call_later(again_s, self._look)
        if self._silence.now and not was_silent:
            self._give_up_waiting()
        elif was_silent and not self._silence.now:
            self._order_notes(self._notes.take_all())
        self._say_trouble()

    def _give_up_waiting(self) -> None:
        """Tell waiting callers that it may take long. The thread keeps its orders; waiting orders become notes."""
        puts = {order.record.id: order.record for order in self._waiting if isinstance(order, Put)}
        for order in self._away + self._waiting:
            if order.done is not None and not _is_patient(order):
                _fail(order.done, self.trouble)
        self._notes.add_earlier(puts.values())
        self._waiting = [order for order in self._waiting if _is_patient(order)]

    def _say_trouble(self) -> None:
        """Log that trouble begins, or that it is over."""
        if bool(self.trouble) is self._announced:
            return
        self._announced = not self._announced
        if self.trouble:
            log.event(
                "error", "new jobs are refused until the journal can be written", file=self._path, reason=self.trouble
            )
        else:
            lost = self.writer.given_up
            log.event("info", "the journal can be written again", file=self._path, jobs_not_recorded=lost)


def _is_patient(order: Order) -> bool:
    return isinstance(order, Ask) and order.patient


def _fail(done: asyncio.Future[Any], reason: str) -> None:
    if not done.done():
        done.set_exception(StoreUnavailableError(reason))
        done.exception()  # a note has no caller that would retrieve this
