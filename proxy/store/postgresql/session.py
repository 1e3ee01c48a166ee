"""One connection to the database, made again whenever it is gone; and what an error of the server means for us.

Nothing is ever cancelled at the server. A commit that waits for a synchronous standby would *succeed* if it were,
without the standby. So a server that does not answer is hung up on, and what it was asked may still be carried out:
each statement of this room may be carried out twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, adapters
from psycopg.adapt import AdaptersMap
from psycopg.types.array import ListBinaryDumper

__all__ = ["ANSWER_S", "GoneError", "Session", "UnfitError", "reason_of"]

#: A server that has not answered for so long is hung up on; this much longer for each megabyte that it is sent.
ANSWER_S: Final = 2.0
_PER_MEGABYTE_S: Final = 0.2
_CONFIRM_S: Final = 0.1
#: What connecting may take in all, beside the time-out of each host: names have to be resolved.
_CONNECT_S: Final = 5.0
#: Every statement here finds its rows by an index. A plan that was made while the table was small must not say else.
_SET_UP: Final = "SET enable_seqscan = off; SET jit = off; SET idle_session_timeout = 0; "
#: At least as durable as `on`; what the server's owner has set above it stays.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'remote_apply' "
    "THEN 'remote_apply' ELSE 'on' END, false)"
)
_NOT_DURABLE: Final = "SET synchronous_commit = off"
#: Of a server that has no such setting: it came with version 14.
_WITHOUT_IDLE: Final = 14_00_00
#: Classes of SQLSTATE that are about what was sent: data exception, integrity constraint, program limit.
_UNFIT: Final = ("22", "23", "54")
_READ_ONLY: Final = "25006"


class _Context:
    """How values are sent: arrays as bytes, which as text would be escaped, at 80 ms for each megabyte."""

    def __init__(self) -> None:
        self.adapters = AdaptersMap(adapters)
        self.adapters.register_dumper(list, ListBinaryDumper)
        self.connection = None


_CONTEXT: Final = _Context()


class GoneError(Exception):
    """The database could not be asked, did not answer, or could not do it now; the message says why.

    What it was asked may have been done.
    """


class UnfitError(Exception):
    """The database cannot take this, now or later; the message says why."""


class Session:
    """A connection that is made when it is needed. Statements are sent one after the other."""

    def __init__(self, conninfo: str, *, durable: bool = True, hosts: int = 1) -> None:
        """`durable`: whether a commit waits for the disk, and for the standby if there is one."""
        self._conninfo = conninfo
        self._durable = durable
        self._connect_s = _CONNECT_S * hosts
        self._connection: AsyncConnection[tuple[Any, ...]] | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        #: When what is under way began, by the monotonic clock, or later if it is much; 0: nothing is.
        self.busy_since = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.closed

    async def run(
        self,
        sql: str,
        *params: Any,
        size_bytes: int = 0,
        patience_s: float = ANSWER_S,
    ) -> Sequence[tuple[Any, ...]]:
        """Return the rows that a statement answers; `$1` is the first of `params`, which have about `size_bytes`.

        Raises:
            GoneError: it may have been carried out.
            UnfitError: it was not.
        """
        async with self._lock:
            limit_s = patience_s + _PER_MEGABYTE_S * size_bytes / 1e6
            self.busy_since = time.monotonic() + limit_s - patience_s
            try:
                connection = self._connection
                if connection is None or connection.closed:
                    connection = await self.connect()
                return await self._ask(connection, sql, params, limit_s)
            finally:
                self.busy_since = 0.0

    async def connect(self) -> AsyncConnection[tuple[Any, ...]]:
        """Return a new connection, in place of the one there is. Raises GoneError."""
        self._drop()
        if self._closed:
            raise GoneError("the store is closed")
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await AsyncConnection.connect(
                    self._conninfo,
                    autocommit=True,
                    cursor_factory=AsyncRawCursor,
                    prepare_threshold=3,
                    context=_CONTEXT,
                )
        except TimeoutError as exc:
            raise GoneError(f"no connection within {self._connect_s:g} s") from exc
        except (psycopg.Error, OSError) as exc:
            raise GoneError(reason_of(exc)) from exc
        self._connection = connection
        set_up = _SET_UP
        if connection.pgconn.server_version < _WITHOUT_IDLE:
            set_up = set_up.replace("SET idle_session_timeout = 0; ", "")
        try:
            await self._ask(connection, set_up + (_DURABLE if self._durable else _NOT_DURABLE), (), ANSWER_S)
        except UnfitError as exc:
            raise GoneError(str(exc)) from exc
        return connection

    def hang_up(self) -> None:
        """Break the connection, so that whoever waits for an answer goes on."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; there will be no other one."""
        self._closed = True
        if self.busy_since:
            self.hang_up()
        else:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    async def _ask(
        self, connection: AsyncConnection[tuple[Any, ...]], sql: str, params: tuple[Any, ...], limit_s: float
    ) -> Sequence[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        began = time.monotonic()

        timers: list[asyncio.TimerHandle] = []

        def confirm() -> None:
            # A process that was stopped, or starved, wakes up to an old hour; the answer may be there already.
            timers.append(loop.call_later(_CONFIRM_S, self.hang_up))

        timers.append(loop.call_later(limit_s, confirm))
        try:
            cursor = connection.cursor(binary=bool(params))
            await cursor.execute(sql, params or None)
            return await cursor.fetchall() if cursor.description else ()
        except asyncio.CancelledError:
            self._drop()
            raise
        except (psycopg.Error, OSError) as exc:
            raise self._meaning(exc, time.monotonic() - began >= limit_s + _CONFIRM_S, limit_s) from exc
        finally:
            for timer in timers:
                timer.cancel()

    def _meaning(self, exc: psycopg.Error | OSError, is_late: bool, limit_s: float) -> GoneError | UnfitError:  # noqa: FBT001 - private
        """Return what to raise for an error; a connection that is of no use any more is dropped."""
        code = getattr(exc, "sqlstate", None) or ""
        connection = self._connection
        lives = connection is not None and not connection.broken and not connection.closed
        if is_late or not lives or code == _READ_ONLY:  # a primary that has become a replica: look for the new one
            self._drop()
        if is_late:
            return GoneError(f"the server has not answered for {limit_s:.1f} s")
        if lives and (code[:2] in _UNFIT or (not code and isinstance(exc, psycopg.DataError))):
            return UnfitError(reason_of(exc))
        return GoneError(reason_of(exc))


def reason_of(exc: BaseException) -> str:
    """Return what an error says, in a line. No such line holds a password: the server and libpq name none."""
    words = " ".join(str(exc).split()) or type(exc).__name__
    code = getattr(exc, "sqlstate", None)
    return f"{words} ({code})" if code else words
