"""The traffic of one connection: libpq's non-blocking functions, driven by the event loop.

psycopg opens the connection, decodes rows and translates errors. Its cursors are not used: a job is a few small
statements, and a cursor, its generators and its dumpers of lists cost the event loop more than the statement itself.

All statements of one call are one transaction, one message to the server and one commit: they go through libpq's
pipeline, up to one synchronisation. Each is prepared once per connection. Values are sent and received in binary form.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, adapters, errors, pq
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, ExecStatus

__all__ = ["Statement", "Wire"]

#: SQL and its parameters; `$1` is the first. The server infers the types text, bytea, boolean, text[] and bytea[] from
#: the context. The types of numbers are sent, because the server can cast these to others.
Statement = tuple[str, Sequence[Any]]

_DOUBLE: Final = struct.Struct("!d").pack
_BIGINT: Final = struct.Struct("!q").pack
_LENGTH: Final = struct.Struct("!i").pack
#: The header of an array with one dimension and no NULL: dimensions, NULLs, element type, length, first index.
_ARRAY: Final = struct.Struct("!iiIii").pack
_UNSAID: Final = 0
_NUMBERS: Final = {int: adapters.types["int8"].oid, float: adapters.types["float8"].oid}
_TEXT: Final[int] = adapters.types["text"].oid
_BYTEA: Final[int] = adapters.types["bytea"].oid
_BINARY: Final = 1
#: Where the kernel's description of a connection has how many bytes the other end has confirmed, and has sent.
_PASSED: Final = slice(120, 136)


class Wire:
    """One connection while it is open. Allows one call at a time."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        """Take over a connection that nobody else uses; must run inside an event loop."""
        #: Called with the payload of a notice.
        self.on_notice: Callable[[str], None] = lambda _: None
        #: Set when the connection is lost, or was closed.
        self.gone = asyncio.Event()
        self._connection = connection  # its destructor closes the connection
        self._libpq = connection.pgconn
        self._libpq.nonblocking = 1
        self._loop = asyncio.get_running_loop()
        self._lost: Exception | None = None
        self._turn: asyncio.Future[None] | None = None
        #: The names of the prepared statements, by SQL and types of the parameters.
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = itertools.count()
        self._rows = Transformer()
        self._fd = self._libpq.socket
        self._loop.add_reader(self._fd, self._on_readable)

    @property
    def server_version(self) -> int:
        """The server's version as a number: 150002 is 15.2."""
        return self._libpq.server_version

    @property
    def backend_pid(self) -> int:
        """The id of the server's process, as the server or a pooler says."""
        return self._libpq.backend_pid

    @property
    def fileno(self) -> int:
        """The socket."""
        return self._fd

    @property
    def passed(self) -> bytes:
        """Changes whenever the other end has confirmed or sent something; empty if the kernel does not say."""
        if not self.is_open:
            return b""
        try:
            with socket.socket(fileno=os.dup(self._fd)) as line:
                return line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PASSED.stop)[_PASSED]
        except OSError:  # not a TCP connection
            return b""

    @property
    def is_open(self) -> bool:
        """Whether the connection is not known to be lost."""
        return self._lost is None

    def close(self) -> None:
        """Close it; waiting callers get an error."""
        self._lose(psycopg.OperationalError("the connection was closed"))

    async def script(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Execute statements without parameters, separated by semicolons; return the rows of the last.

        Raises:
            psycopg.Error: as the server says; some of them may have been executed.
        """
        with self._sending():
            self._libpq.exit_pipeline_mode()
            self._libpq.send_query(sql.encode())
        rows: Sequence[tuple[Any, ...]] = ()
        failure: psycopg.Error | None = None
        while (result := await self._next()) is not None:
            if result.status not in {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}:
                failure = failure or _error_of(result)
            rows = self._load(result)
        self._hear()  # notices that came after the answer
        if failure is not None:
            raise failure
        return rows

    async def run(self, statements: Sequence[Statement]) -> list[Sequence[tuple[Any, ...]]]:
        """Execute statements as one transaction; return the rows of each.

        Raises:
            psycopg.Error: as the server says; nothing has changed, unless the connection was lost.
            ValueError, struct.error: there is a value that cannot be sent; nothing has changed.
        """
        dumped = [[_dumped(value) for value in values] for _, values in statements]
        kinds = [(sql, tuple(_NUMBERS.get(type(value), _UNSAID) for value in values)) for sql, values in statements]
        new = {kind: b"s%d" % next(self._numbers) for kind in dict.fromkeys(kinds) if kind not in self._prepared}
        with self._sending():
            self._libpq.enter_pipeline_mode()
            for (sql, types), name in new.items():
                self._libpq.send_prepare(name, sql.encode(), types)
            for kind, values in zip(kinds, dumped, strict=True):
                name = self._prepared.get(kind) or new[kind]
                formats = (_BINARY,) * len(values)
                self._libpq.send_query_prepared(name, values, param_formats=formats, result_format=_BINARY)
            self._libpq.pipeline_sync()
        return await self._answers(list(new.items()), len(statements))

    async def _answers(
        self, new: Sequence[tuple[tuple[str, tuple[int, ...]], bytes]], statements: int
    ) -> list[Sequence[tuple[Any, ...]]]:
        failure: psycopg.Error | None = None
        rows = []
        for number in range(len(new) + statements):
            result = await self._next()
            if result is None:
                exc = psycopg.InternalError("the server's answers do not fit what it was asked")
                self._lose(exc)  # or the next answer would be mistaken for that of another statement
                raise exc
            if result.status not in {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}:
                failure = failure or _error_of(result)
            elif number < len(new):
                self._prepared.update(new[number : number + 1])
            else:
                rows.append(self._load(result))
            await self._next()  # None: the end of this one
        # The commit happens at the synchronisation, after the last statement was answered. It may fail, which undoes
        # everything that was answered before.
        committed = await self._next()
        if committed is None or committed.status != ExecStatus.PIPELINE_SYNC:
            unknown = psycopg.OperationalError("nobody knows whether it was committed")
            failure = failure or (unknown if committed is None else _error_of(committed))
            self._lose(failure)
        if failure is not None:
            raise failure
        return rows

    def _load(self, result: pq.abc.PGresult) -> Sequence[tuple[Any, ...]]:
        if not result.ntuples:
            return ()
        self._rows.set_pgresult(result)
        return self._rows.load_rows(0, result.ntuples, tuple)

    # --- libpq and the loop ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._lost is not None:
            raise self._lost

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Send what the block passes to libpq: as much as the socket takes now, and the rest when it is writable."""
        self._begin()
        try:
            yield
        except psycopg.Error as exc:  # a part may have been sent
            self._lose(exc)
            raise
        if self._flush():
            self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        if not self._flush() and self._lost is None:
            self._loop.remove_writer(self._fd)

    def _flush(self) -> bool:
        """Return whether something is left to send."""
        try:
            return bool(self._libpq.flush())
        except psycopg.Error as exc:
            self._lose(exc)
            return False

    def _on_readable(self) -> None:
        try:
            self._read()
            if self._turn is None or self._libpq.is_busy():
                self._read()
            self._hear()
        except psycopg.Error as exc:
            self._lose(exc)
        else:
            if self._turn is not None and not self._turn.done() and not self._libpq.is_busy():
                self._turn.set_result(None)

    def _read(self) -> None:
        """Pass to libpq what the socket has.

        uvloop reports a reset only once, together with what came before it: so whoever is about to wait reads first.
        """
        try:
            self._libpq.consume_input()
        except psycopg.Error as exc:
            self._lose(exc)
            raise

    def _hear(self) -> None:
        while (notice := self._libpq.notifies()) is not None:
            self.on_notice(notice.extra.decode())

    async def _next(self) -> pq.abc.PGresult | None:
        """Return the next of libpq's results."""
        self._begin()
        if self._libpq.is_busy():
            self._read()
        while self._libpq.is_busy():
            self._turn = self._loop.create_future()
            try:
                await self._turn
            finally:
                self._turn = None
        return self._libpq.get_result()

    def _lose(self, exc: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = exc
        # At once: libpq may have closed the socket, and the next connection, perhaps a client's, may get its number.
        # The loop would think that it is watching that one already, and the client's request would never be read.
        with contextlib.suppress(OSError):  # asyncio's own loop complains if it did so in the middle of sending
            self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._libpq.finish()
        self.gone.set()
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(exc)


def _dumped(value: Any) -> bytes | None:  # noqa: ANN401 - as many types as parameters
    """Return a value in the server's binary format."""
    match value:
        case None | bytes():
            return value
        case str():
            return value.encode()
        case bool():
            return b"\1" if value else b"\0"
        case float():
            return _DOUBLE(value)
        case int():
            return _BIGINT(value)
        case _:
            return _array(value)


def _array(values: Sequence[str] | Sequence[bytes]) -> bytes:
    kind = _BYTEA if values and isinstance(values[0], bytes) else _TEXT
    parts = [_ARRAY(1, 0, kind, len(values), 1)]
    for value in values:
        part = value if isinstance(value, bytes) else value.encode()
        parts += (_LENGTH(len(part)), part)
    return b"".join(parts)


def _error_of(result: pq.abc.PGresult) -> psycopg.Error:
    """Return the exception for an error result."""
    code = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    words = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b"no reason was given"
    try:
        kind: type[psycopg.Error] = errors.lookup(code)
    except KeyError:
        kind = psycopg.DatabaseError
    error = kind(words.decode(errors="replace"))
    error.sqlstate = code or None
    return error
