"""Idempotency keys: one key, one job, however often it is sent.

A request under a key that is in use joins that job, or gets its outcome again. Only a job that certainly was not
submitted may be begun anew under its key. Between the look into the store and the new job nothing else may begin under
the same key: whoever comes second waits for the first to be through with that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.jobs.job import Job
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted
from shared.outcome import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.jobs.in_flight import Registry
    from proxy.store.protocol import JobStore

__all__ = ["Keys"]


class Keys:
    """Finds the job that belongs to a key, or begins it."""

    def __init__(self, registry: Registry, store: JobStore) -> None:
        self._registry = registry
        self._store = store
        #: Keys that somebody looks for in the store, and what tells that the search is over.
        self._searches: dict[bytes, asyncio.Event] = {}

    async def job(self, key: bytes, printed: bytes, begin: Callable[[], Job]) -> tuple[Job | Record, bool]:
        """Return the job of this key, in flight or finished, and whether it was there before; else `begin` it.

        Raises:
            RequestError: the key was used with another body.
            AdmissionError: nobody can tell now whether the key was used, or `begin` says so.
        """
        while True:
            job = self._registry.by_key(key)
            if job is not None:
                return _same(job, printed), True
            search = self._searches.get(key)
            if search is None:
                break
            await search.wait()
        over = self._searches[key] = asyncio.Event()
        try:
            record = await self._store.by_key(key)
            if record is None or _may_run_again(_same(record, printed)):
                return begin(), False
        except StoreUnavailableError as exc:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, str(exc)) from exc
        finally:
            del self._searches[key]
            over.set()
        return record, True


def _same(known: Job | Record, printed: bytes) -> Job | Record:
    if known.fingerprint != printed:
        raise RequestError(Code.IDEMPOTENCY_KEY_REUSED, "this `Idempotency-Key` was used with another body")
    return known


def _may_run_again(known: Job | Record) -> bool:
    outcome = known.outcome
    return isinstance(outcome, Failed) and outcome.submitted is Submitted.NO
