"""Idempotency keys: one key, one job, however often it is sent.

A request whose key is in use joins that job, or gets its outcome again. Only a job that certainly was not submitted may
be run again with its key.

Between the look-up in the store and the new job, no other job may begin with the same key: a second request waits until
the first one has finished that step. If several instances share a store, the new job claims its key there, and the
store refuses it to all but one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from proxy.jobs.job import Job
from proxy.store.protocol import TakenError
from proxy.store.record import Record
from shared.errors import AdmissionError, Code, RequestError
from shared.lifecycle import Submitted
from shared.outcome import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.jobs.in_flight import InFlight
    from proxy.store.protocol import JobStore

__all__ = ["Keys"]


class Keys:
    """Finds the job of a key, or starts it."""

    def __init__(self, in_flight: InFlight, store: JobStore) -> None:
        self._in_flight = in_flight
        self._store = store
        #: Keys that are being looked up in the store, with an event that is set afterwards.
        self._searches: dict[bytes, asyncio.Event] = {}

    async def find(self, key: bytes) -> Job | Record | None:
        """Return the job of this key, in flight or remembered, if there is one. Raises StoreUnavailableError."""
        return self._in_flight.by_key(key) or await self._store.by_key(key)

    async def join_or_begin(
        self, key: bytes, fingerprint: bytes, profile: str, begin: Callable[[], Awaitable[Job]]
    ) -> tuple[Job | Record, bool]:
        """Return the job of this key, here or on record, and whether it existed before; otherwise `begin` it.

        `begin` may raise TakenError if another instance is faster.

        Raises:
            RequestError: the key was used with another body, or for another profile.
            StoreUnavailableError: it cannot be determined now whether the key was used.
            AdmissionError: `begin` says so.
        """
        while True:
            job = self._in_flight.by_key(key)
            if job is not None:
                return _same(job, fingerprint, profile), True
            search = self._searches.get(key)
            if search is None:
                break
            await search.wait()
        over = self._searches[key] = asyncio.Event()
        try:
            while True:
                record = await self._store.by_key(key)
                if record is not None and not _may_run_again(_same(record, fingerprint, profile)):
                    return record, True
                with contextlib.suppress(TakenError):
                    return await begin(), False
        except AdmissionError as exc:
            # The key was looked up: no job can be at the job server, unless one was deleted.
            exc.fate_known = not self._store.may_have_lost()
            raise
        finally:
            del self._searches[key]
            over.set()


def _same(found: Job | Record, fingerprint: bytes, profile: str) -> Job | Record:
    # The fate of a refused job is not reported as known: `no` would be about it, but could be read as about the key's.
    if found.profile and found.profile != profile:  # a job without a profile is from before there were profiles
        raise RequestError(
            Code.IDEMPOTENCY_KEY_REUSED, f"this `Idempotency-Key` was used for the profile {found.profile}"
        )
    if found.fingerprint != fingerprint:
        words = "this `Idempotency-Key` was used with a different body, path, query or `Content-Type`"
        raise RequestError(Code.IDEMPOTENCY_KEY_REUSED, words)
    return found


def _may_run_again(found: Job | Record) -> bool:
    outcome = found.outcome
    return isinstance(outcome, Failed) and outcome.submitted is Submitted.NO
