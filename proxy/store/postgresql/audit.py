"""The audit entries of all instances: written in the background, and retried if an attempt got no answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy import log
from proxy.store.deeds import KEPT, KEPT_MINOR, Deed, tell_dropped, with_waiting
from proxy.store.postgresql.health import Health
from proxy.store.postgresql.orders import Lane
from proxy.store.postgresql.reading import searching
from proxy.store.postgresql.session import Session

__all__ = ["AuditTable"]

#: How many entries of each kind may wait; beyond that, they are only in the log.
_WAITING: Final = {False: 10_000, True: 2_000}
#: How long a query waits for earlier entries to be written.
_FLUSH_S: Final = 1.0
_COLUMNS: Final = ("what", "who", "via", "peer", "instance", "of", "outcome", "detail")
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
_ARRAYS: Final = ", ".join(f"${number}::text[]" for number in range(1, 4 + len(_COLUMNS)))
#: As everywhere, the times are the database's. An entry that is written twice is stored once. Other commits of the
#: session do not wait for the disk; this one does.
_ENTER: Final = f"""
INSERT INTO proxy_audit (id, at, is_coming, {_NAMES})
SELECT id, now() - make_interval(secs => age_s::float8), is_coming::boolean, {_NAMES}
FROM (SELECT set_config('synchronous_commit', 'on', true)) AS durable,
    unnest({_ARRAYS}) AS x (id, age_s, is_coming, {_NAMES})
ON CONFLICT (id) DO NOTHING
"""  # noqa: S608 - our own names
#: $1: the kind; $2: how many entries of it are kept.
_FORGET: Final = """
DELETE FROM proxy_audit WHERE is_coming = $1 AND n <= (
    SELECT n FROM proxy_audit WHERE is_coming = $1 ORDER BY n DESC LIMIT 1 OFFSET $2)
"""
_NEWEST: Final = f"""
SELECT n, id, extract(epoch FROM at)::float8, {_NAMES} FROM proxy_audit WHERE n < $1 ORDER BY n DESC LIMIT $2
"""  # noqa: S608
#: Larger than the number of any row.
_NO_ROW: Final = 2**63 - 1


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Entry:
    deed: Deed
    #: Never given up: no caller waits, so it can wait for an unavailable database.
    until: float = math.inf
    size_bytes: int = 500


class AuditTable:
    """The table of what operators did."""

    def __init__(self, session: Session, health: Health, *, clock: Callable[[], float] = time.time) -> None:
        """`session` may be shared; must run inside an event loop. `clock`: the one of `Deed.at`, in Unix seconds."""
        self._session = session
        self._clock = clock
        self._lane: Lane[_Entry] = Lane(session, health, carry_out=self._write, give_up=_give_up)
        #: How many entries were dropped; logged when something is written again.
        self._dropped = 0

    def enter(self, deed: Deed) -> None:
        """See `JobStore.enter`."""
        if len(self._lane) < _WAITING[deed.is_minor]:
            self._lane.add(_Entry(deed=deed))
        else:
            self._dropped += 1

    async def newest(self, limit: int, before: int | None) -> list[Deed]:
        """See `JobStore.deeds`. The numbers of those that cannot be written yet are likely, not certain."""
        await self.flush(_FLUSH_S)
        waiting = [entry.deed for entry in self._lane.pending()]
        with searching():
            stored = await self._read(_NO_ROW if before is None else before, limit)
            newest = await self._read(_NO_ROW, 1) if waiting else []
        known = {deed.id for deed in stored}
        unknown = [deed for deed in waiting if deed.id not in known]
        return with_waiting(stored, unknown, max((deed.n for deed in newest), default=0), limit, before)

    async def _read(self, before: int, limit: int) -> list[Deed]:
        rows = await self._session.run(_NEWEST, before, limit)
        return [
            Deed(n=n, id=deed_id, at=at, **dict(zip(_COLUMNS, columns, strict=True)))
            for n, deed_id, at, *columns in rows
        ]

    async def flush(self, timeout_s: float) -> None:
        """Wait until all entries are written, at most that long."""
        if len(self._lane):
            await self._lane.flush(timeout_s)

    async def close(self) -> None:
        """Stop writing; log what was not written."""
        await self._lane.close()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        tell_dropped(self._dropped)
        self._dropped = 0

    async def _write(self, entries: list[_Entry]) -> None:
        now = self._clock()
        deeds = [entry.deed for entry in entries]
        await self._session.run(
            _ENTER,
            [deed.id for deed in deeds],
            [f"{now - deed.at:.3f}" for deed in deeds],
            [str(deed.is_minor) for deed in deeds],
            *([getattr(deed, name).replace("\0", "\ufffd") for deed in deeds] for name in _COLUMNS),
        )
        for is_minor, kept in ((False, KEPT), (True, KEPT_MINOR)):
            await self._session.run(_FORGET, is_minor, kept)
        self._tell_dropped()


def _give_up(entry: _Entry, error: Exception) -> None:
    log.event("warning", "an audit entry could not be stored", action=entry.deed.what, reason=str(error))
