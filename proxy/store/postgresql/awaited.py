"""The ends of jobs that this instance waits for, whichever instance records them.

Notices announce them. A notice may be lost, so it is also polled, by one query, which of them have ended.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proxy.store.postgresql.ends import pause
from proxy.store.postgresql.orders import settle
from proxy.store.postgresql.session import GoneError, Session, UnfitError
from proxy.store.postgresql.statements import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.store.postgresql.health import Health
    from proxy.store.record import Record

__all__ = ["AwaitedEnds"]

#: The most jobs in one query.
_AT_ONCE: Final = 1_000


class AwaitedEnds:
    """The jobs whose ends are awaited here, and who waits."""

    def __init__(self, session: Session, health: Health, *, every_s: float, on_end: Callable[[str], bool]) -> None:
        """Poll over `session`, every `every_s` seconds.

        `on_end` is to read the job that has ended, and `tell`; it returns False if that is under way.
        """
        self._session = session
        self._health = health
        self._every_s = every_s
        self._on_end = on_end
        self._waiting: dict[str, list[asyncio.Future[Record]]] = {}
        self._now = asyncio.Event()
        self._closing = False
        #: Ends that polling found before a notice came.
        self.lost_notices = 0

    def __contains__(self, job_id: str) -> bool:
        """Return whether the end of this job is awaited."""
        return job_id in self._waiting

    async def of(self, job_id: str) -> Record:
        """Wait for the end of a job, unless it has ended already; return its record."""
        done: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(done)
        try:
            return await done
        finally:
            left = [other for other in self._waiting.pop(job_id, ()) if other is not done]
            if left:
                self._waiting[job_id] = left

    def tell(self, record: Record) -> None:
        """Wake the callers that wait for the end of this job."""
        for done in self._waiting.get(record.id, ()):
            settle(done, record)

    def look_now(self) -> None:
        """Poll soon: notices may have been missed."""
        self._now.set()

    def close(self) -> None:
        """Stop polling."""
        self._closing = True
        self._now.set()

    async def run(self) -> None:
        """Poll until `close`."""
        while not self._closing:
            self._now.clear()
            for job_ids in _chunks(list(self._waiting), _AT_ONCE):
                try:
                    rows = await self._session.run(ENDED, job_ids)
                except (GoneError, UnfitError) as exc:
                    self._health.failed(str(exc), time.monotonic())
                    break
                for (job_id,) in rows:
                    if not all(done.done() for done in self._waiting.get(job_id, ())):
                        self.lost_notices += self._on_end(job_id)
            await pause(self._now, self._every_s)


def _chunks(values: list[str], size: int) -> Iterable[list[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))
