"""One connection to the database, reconnected whenever it is lost; and what an error of the server means for us.

Nothing is ever cancelled at the server: a commit that waits for a synchronous standby would *succeed* on cancellation,
without the standby. So if the server does not answer, the connection is closed, and the statement may still be
executed. Therefore each statement of this package may be executed twice. Only a wait for a lock is ended by the server,
before we close the connection: otherwise each retry would leave another of its processes behind.

A large result takes long over a slow line. So the server also has more time as long as the other end of the connection
confirms what was sent, or sends something; but not where heartbeats wait for the same connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection

from proxy.store.postgresql.wire import Statement, Wire

__all__ = ["ANSWER_S", "LOCKED", "GoneError", "Session", "UnfitError", "code_of", "reason_of"]

#: After this long without an answer or progress the connection is closed; the second figure is added for each megabyte
#: sent.
ANSWER_S: Final = 2.0
_PER_MEGABYTE_S: Final = 0.2
_CONFIRM_S: Final = 0.1
#: How long a statement waits for a lock: more would delay the orders that need another row.
_LOCK_S: Final = 0.5
#: How long connecting may take per host. Longer than libpq's own timeout, because names have to be resolved.
_CONNECT_S: Final = 5.0
#: Every statement here finds its rows by an index, even if its plan was made while the table was small. Its conditions
#: are checked again if another instance has changed the row meanwhile; stricter isolation would be an error instead.
_SET_UP: Final = (
    "SET client_encoding = 'UTF8'; SET enable_seqscan = off; SET jit = off; SET idle_session_timeout = 0; "
    "SET statement_timeout = 0; SET default_transaction_isolation = 'read committed'; "
    f"SET lock_timeout = {round(_LOCK_S * 1000)}; "
    # If this machine is lost in the middle of a batch, the server holds its locks until it notices.
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 10000; "
)
#: Planning takes longer than execution, and there is only one sensible plan.
_ONE_PLAN: Final = "SET plan_cache_mode = force_generic_plan; "
#: At least as durable as `on`; a stricter setting of the server stays.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'remote_apply' "
    "THEN 'remote_apply' ELSE 'on' END, false)"
)
_NOT_DURABLE: Final = "SET synchronous_commit = off"
#: Servers before this version do not have `idle_session_timeout`.
_WITHOUT_IDLE: Final = 14_00_00
#: Classes of SQLSTATE that blame the sent values: data exception, integrity constraint, program limit.
_UNFIT: Final = ("22", "23", "54")
_READ_ONLY: Final = "25006"
#: SQLSTATE: a lock was not available in time.
LOCKED: Final = "55P03"

T = TypeVar("T")


class GoneError(Exception):
    """The database could not be reached, did not answer, or failed for now; the message says why.

    The statement may have been executed.
    """


class UnfitError(Exception):
    """The database will never accept these values; the message says why."""


class Session:
    """A connection that is opened when it is needed. Statements are sent one after the other."""

    def __init__(self, conninfo: str, *, durable: bool = True, hosts: int = 1, may_take_long: bool = True) -> None:
        """`durable`: whether a commit waits for the disk, and for the standby if there is one.

        A session that is not durable is in no hurry either, so its statements may be planned at each execution.
        `may_take_long`: whether there is more time for an answer as long as there is progress.
        """
        self._conninfo = conninfo
        self._durable = durable
        self._may_take_long = may_take_long
        self._connect_s = _CONNECT_S * hosts
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        #: When the current statements were sent, by the monotonic clock, plus the time allowed for large ones; 0: idle.
        self.busy_since = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._wire is not None and self._wire.is_open

    @property
    def backend_pid(self) -> int:
        """The id of the server's process, as the server or a pooler says; 0 if there is no connection."""
        return self._wire.backend_pid if self._wire is not None and self._wire.is_open else 0

    async def run(self, sql: str, *params: Any, patience_s: float = ANSWER_S) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a statement; `$1` is the first of `params`.

        Raises:
            GoneError: it may have been executed.
            UnfitError: it was not executed.
        """
        (rows,) = await self.run_all([(sql, params)], patience_s=patience_s)
        return rows

    async def run_all(
        self, statements: Sequence[Statement], *, size_bytes: int = 0, patience_s: float = ANSWER_S
    ) -> list[Sequence[tuple[Any, ...]]]:
        """Execute statements as one transaction; return the rows of each. Their values have about `size_bytes`.

        Raises:
            GoneError: all of them may have been executed.
            UnfitError: none was executed.
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
        """Execute statements without parameters, separated by semicolons; return the rows of the last.

        Raises:
            GoneError, UnfitError: all or some of them may have been executed.
        """
        async with self._lock:
            wire = await self._open()
            return await self._answer(wire, wire.script(sql), patience_s)

    async def connect(self) -> Wire:
        """Open a new connection, in place of the current one. Raises GoneError."""
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
            self._drop()  # none of the settings holds, not even whether a commit waits for the disk
            raise GoneError(str(exc)) from exc
        return wire

    def hang_up(self) -> None:
        """Break the connection, so that waiting callers continue."""
        wire = self._wire
        if wire is not None and wire.is_open:
            try:
                with socket.socket(fileno=os.dup(wire.fileno)) as line:
                    line.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is broken already
                wire.close()

    def close(self) -> None:
        """Close the connection and never open another one."""
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
        timer: asyncio.TimerHandle
        is_late = False

        def look(passed: bytes | None) -> None:
            nonlocal timer
            now = wire.passed
            if passed is None:
                timer = loop.call_later(limit_s / 2, look, now)
            elif passed != now and self._may_take_long:
                timer = loop.call_later(limit_s, look, now)
            else:
                # If this process was stopped or starved of CPU, the answer may have arrived but not been read yet.
                timer = loop.call_later(_CONFIRM_S, give_up)

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            self.hang_up()

        timer = loop.call_later(limit_s / 2, look, None)
        try:
            return await asked
        except asyncio.CancelledError:
            self._drop()
            raise
        except (ValueError, OverflowError, struct.error) as exc:
            raise UnfitError(reason_of(exc)) from exc
        except (psycopg.Error, OSError) as exc:
            raise self._meaning(wire, exc, is_late, limit_s) from exc
        finally:
            timer.cancel()

    def _meaning(self, wire: Wire, exc: psycopg.Error | OSError, is_late: bool, limit_s: float) -> Exception:  # noqa: FBT001 - private
        """Return the exception to raise for an error; drop the connection if it is not usable any more."""
        code = getattr(exc, "sqlstate", None) or ""
        lives = wire.is_open
        if is_late or not lives or code == _READ_ONLY:  # a primary that has become a replica: look for the new one
            self._drop()
        if is_late:
            return GoneError(f"the server has not answered for {limit_s:.1f} s")
        if lives and code[:2] in _UNFIT:
            return UnfitError(reason_of(exc))
        return GoneError(reason_of(exc))


def code_of(exc: GoneError | UnfitError) -> str:
    """Return the SQLSTATE of the server's error behind an exception; empty if there is none."""
    return getattr(exc.__cause__, "sqlstate", None) or ""


def reason_of(exc: BaseException) -> str:
    """Return an error's message in one line. It contains no password, as neither the server nor libpq names any."""
    words = " ".join(str(exc).split()) or type(exc).__name__
    code = getattr(exc, "sqlstate", None)
    return f"{words} ({code})" if code else words
