"""One connection to the database, reconnected whenever it is lost; and what an error of the server means for us.

Nothing is ever cancelled at the server. A commit that waits for a synchronous standby would *succeed* if it were,
without the standby. So if the server does not answer, the connection is closed, and the statement may still be
executed: each statement of this package may be executed twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection

from proxy.store.postgresql.wire import Statement, Wire

__all__ = ["ANSWER_S", "GoneError", "Session", "UnfitError", "reason_of"]

#: After this long without an answer the connection is closed; this much later for each megabyte that was sent.
ANSWER_S: Final = 2.0
_PER_MEGABYTE_S: Final = 0.2
_CONFIRM_S: Final = 0.1
#: What connecting may take in all, beside the time-out of each host: names have to be resolved.
_CONNECT_S: Final = 5.0
#: Every statement here finds its rows by an index. A plan that was made while the table was small must not say else.
_SET_UP: Final = "SET client_encoding = 'UTF8'; SET enable_seqscan = off; SET jit = off; SET idle_session_timeout = 0; "
#: To make a plan takes longer than to carry it out, and there is only one way to do it.
_ONE_PLAN: Final = "SET plan_cache_mode = force_generic_plan; "
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

T = TypeVar("T")


class GoneError(Exception):
    """The database could not be asked, did not answer, or could not do it now; the message says why.

    What it was asked may have been done.
    """


class UnfitError(Exception):
    """The database cannot take this, now or later; the message says why."""


class Session:
    """A connection that is made when it is needed. Statements are sent one after the other."""

    def __init__(self, conninfo: str, *, durable: bool = True, hosts: int = 1) -> None:
        """`durable`: whether a commit waits for the disk, and for the standby if there is one.

        One that is not has no haste either: each of its statements may have a plan of its own.
        """
        self._conninfo = conninfo
        self._durable = durable
        self._connect_s = _CONNECT_S * hosts
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        #: When what is under way began, by the monotonic clock, or later if it is much; 0: nothing is.
        self.busy_since = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._wire is not None and self._wire.is_open

    @property
    def backend_pid(self) -> int:
        """The server's process, as whoever answers the connection says; 0 where there is none."""
        return self._wire.backend_pid if self._wire is not None and self._wire.is_open else 0

    async def run(self, sql: str, *params: Any, patience_s: float = ANSWER_S) -> Sequence[tuple[Any, ...]]:
        """Return the rows that a statement answers; `$1` is the first of `params`.

        Raises:
            GoneError: it may have been carried out.
            UnfitError: it was not.
        """
        (rows,) = await self.run_all([(sql, params)], patience_s=patience_s)
        return rows

    async def run_all(
        self, statements: Sequence[Statement], *, size_bytes: int = 0, patience_s: float = ANSWER_S
    ) -> list[Sequence[tuple[Any, ...]]]:
        """Carry out statements as one transaction; return the rows of each. They have about `size_bytes`.

        Raises:
            GoneError: all of it may have been carried out.
            UnfitError: nothing was.
        """
        async with self._lock:
            limit_s = patience_s + _PER_MEGABYTE_S * size_bytes / 1e6
            self.busy_since = time.monotonic() + limit_s - patience_s
            try:
                wire = await self._open()
                return await self._answer(wire, wire.run(statements), limit_s)
            finally:
                self.busy_since = 0.0

    async def script(self, sql: str, *, patience_s: float = ANSWER_S) -> Sequence[tuple[Any, ...]]:
        """Carry out statements without parameters, separated by semicolons; return the rows of the last.

        Raises:
            GoneError, UnfitError: they may have been carried out, or some of them.
        """
        async with self._lock:
            wire = await self._open()
            return await self._answer(wire, wire.script(sql), patience_s)

    async def connect(self) -> Wire:
        """Return a new connection, in place of the one there is. Raises GoneError."""
        self._drop()
        if self._closed:
            raise GoneError("the store is closed")
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await AsyncConnection.connect(self._conninfo, autocommit=True)
        except TimeoutError as exc:
            raise GoneError(f"no connection within {self._connect_s:g} s") from exc
        except (psycopg.Error, OSError) as exc:
            raise GoneError(reason_of(exc)) from exc
        wire = self._wire = Wire(connection)
        set_up = _SET_UP + (_ONE_PLAN + _DURABLE if self._durable else _NOT_DURABLE)
        if wire.server_version < _WITHOUT_IDLE:
            set_up = set_up.replace("SET idle_session_timeout = 0; ", "")
        try:
            await self._answer(wire, wire.script(set_up), ANSWER_S)
        except (GoneError, UnfitError) as exc:
            self._drop()  # not one of its settings counts, and whether a commit waits for the disk is one of them
            raise GoneError(str(exc)) from exc
        return wire

    def hang_up(self) -> None:
        """Break the connection, so that waiting callers continue."""
        wire = self._wire
        if wire is not None and wire.is_open:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(wire.fileno)) as line:
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; there will be no other one."""
        self._closed = True
        if self.busy_since:
            self.hang_up()
        else:
            self._drop()

    async def _open(self) -> Wire:
        wire = self._wire
        return wire if wire is not None and wire.is_open else await self.connect()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _answer(self, wire: Wire, asked: Awaitable[T], limit_s: float) -> T:
        loop = asyncio.get_running_loop()
        began = time.monotonic()

        timers: list[asyncio.TimerHandle] = []

        def confirm() -> None:
            # A process that was stopped, or starved, wakes up to an old hour; the answer may be there already.
            timers.append(loop.call_later(_CONFIRM_S, self.hang_up))

        timers.append(loop.call_later(limit_s, confirm))
        try:
            return await asked
        except asyncio.CancelledError:
            self._drop()
            raise
        except (ValueError, OverflowError, struct.error) as exc:
            raise UnfitError(reason_of(exc)) from exc
        except (psycopg.Error, OSError) as exc:
            raise self._meaning(wire, exc, time.monotonic() - began >= limit_s + _CONFIRM_S, limit_s) from exc
        finally:
            for timer in timers:
                timer.cancel()

    def _meaning(self, wire: Wire, exc: psycopg.Error | OSError, is_late: bool, limit_s: float) -> Exception:  # noqa: FBT001 - private
        """Return what to raise for an error; a connection that is of no use any more is dropped."""
        code = getattr(exc, "sqlstate", None) or ""
        lives = wire.is_open
        if is_late or not lives or code == _READ_ONLY:  # a primary that has become a replica: look for the new one
            self._drop()
        if is_late:
            return GoneError(f"the server has not answered for {limit_s:.1f} s")
        if lives and code[:2] in _UNFIT:
            return UnfitError(reason_of(exc))
        return GoneError(reason_of(exc))


def reason_of(exc: BaseException) -> str:
    """Return what an error says, in a line. No such line holds a password: the server and libpq name none."""
    words = " ".join(str(exc).split()) or type(exc).__name__
    code = getattr(exc, "sqlstate", None)
    return f"{words} ({code})" if code else words
