"""Where jobs are remembered: the protocol, and the store that forgets with the process."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

from shared.lifecycle import State, Submitted
from shared.outcome import Outcome, Succeeded

__all__ = ["JobStore", "MemoryStore", "Record"]

_MAX_BYTES: Final = 64 * 1024 * 1024
#: What a record costs besides its bodies; an estimate, to bound the store.
_RECORD_BYTES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is remembered of a job."""

    id: str
    #: SHA-256 of the callback token.
    token_hash: bytes
    state: State
    submitted: Submitted
    #: Unix time in seconds; for people and for expiry, never for a deadline.
    accepted_at: float
    finished_at: float | None = None
    outcome: Outcome | None = None
    #: Whether a callback was accepted for this job.
    called_back: bool = False

    @property
    def size_bytes(self) -> int:
        """About how much memory this record takes."""
        body = self.outcome.body if isinstance(self.outcome, Succeeded) else b""
        return _RECORD_BYTES + len(body)


class JobStore(Protocol):
    """A place to remember jobs. `put` returns when what it was given will be found again, whatever dies next."""

    async def put(self, record: Record) -> None:
        """Remember `record`, in place of an earlier one with the same id."""
        ...

    async def by_id(self, job_id: str) -> Record | None:
        """Return the job with this id, if it is remembered."""
        ...

    async def by_token(self, hashed: bytes) -> Record | None:
        """Return the job whose callback token has this hash, if it is remembered."""
        ...

    async def close(self) -> None:
        """Finish what is under way."""
        ...


class MemoryStore:
    """Remembers finished jobs for `ttl_s` seconds, or until `max_bytes` are full: then the oldest go first."""

    def __init__(self, ttl_s: float, max_bytes: int = _MAX_BYTES) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_id: OrderedDict[str, tuple[float, Record]] = OrderedDict()
        self._id_of: dict[bytes, str] = {}

    async def put(self, record: Record) -> None:
        """See `JobStore.put`."""
        self._drop(record.id)
        self._by_id[record.id] = (time.monotonic() + self._ttl_s, record)
        self._id_of[record.token_hash] = record.id
        self._bytes += record.size_bytes
        self._expire()

    async def by_id(self, job_id: str) -> Record | None:
        """See `JobStore.by_id`."""
        self._expire()
        entry = self._by_id.get(job_id)
        return entry[1] if entry else None

    async def by_token(self, hashed: bytes) -> Record | None:
        """See `JobStore.by_token`."""
        job_id = self._id_of.get(hashed)
        return await self.by_id(job_id) if job_id else None

    async def close(self) -> None:
        """See `JobStore.close`."""

    def _expire(self) -> None:
        now = time.monotonic()
        while self._by_id:
            job_id, (expiry, _) = next(iter(self._by_id.items()))
            if expiry > now and self._bytes <= self._max_bytes:
                return
            self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        entry = self._by_id.pop(job_id, None)
        if entry is not None:
            self._bytes -= entry[1].size_bytes
            del self._id_of[entry[1].token_hash]
