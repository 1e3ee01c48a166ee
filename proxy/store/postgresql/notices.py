"""What instances tell one another: NOTIFY to the instance's own channel, with a job's id.

A notice says that it is worth looking; what there is to know is in the table. It may be lost, and costs whoever waits
half a second then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from proxy.store.postgresql.session import GoneError, Session
from proxy.store.postgresql.statements import NOTIFY

__all__ = ["Listener", "Tell", "tell_all"]

_AGAIN_S: Final = 0.2


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Tell:
    """Tell an instance that something was recorded of a job."""

    instance: str
    job_id: str
    #: By the monotonic clock.
    until: float
    size_bytes: int = 100


async def tell_all(session: Session, tells: list[Tell]) -> None:
    """Tell what is to be told, each once."""
    once = sorted({(tell.instance, tell.job_id) for tell in tells})
    await session.run(NOTIFY, [instance for instance, _ in once], [job_id for _, job_id in once])


class Listener:
    """Hears what this instance is told, for as long as there is a connection; makes it again."""

    def __init__(
        self, session: Session, instance: str, *, on_notice: Callable[[str], None], on_gap: Callable[[], None]
    ) -> None:
        """`on_notice` is given the job's id; `on_gap` is called when something may have been missed."""
        self._session = session
        self._instance = instance
        self._on_notice = on_notice
        self._on_gap = on_gap
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run())
        #: How many notices came.
        self.heard = 0

    async def close(self) -> None:
        """Hear no more."""
        self._closing = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=1.0)
        self._session.close()

    async def _run(self) -> None:
        while not self._closing:
            began = time.monotonic()
            try:
                connection = await self._session.connect()
                await connection.execute(f'LISTEN "proxy_{self._instance}"'.encode())
                self._on_gap()
                await self._hear(connection)
            except (GoneError, psycopg.Error, OSError):
                await asyncio.sleep(max(0.0, began + _AGAIN_S - time.monotonic()))

    async def _hear(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        """Hear what comes until the connection is gone. psycopg's own way would look ten times a second."""
        loop, fd = asyncio.get_running_loop(), connection.fileno()
        gone = asyncio.Event()

        def read() -> None:
            try:
                connection.pgconn.consume_input()
                while (notice := connection.pgconn.notifies()) is not None:
                    self.heard += 1
                    self._on_notice(notice.extra.decode())
            except psycopg.Error:
                # libpq has closed the socket. What is opened next may get its number, a client's connection, too. The
                # loop would take it for one that it looks at already, and its request would never be read.
                loop.remove_reader(fd)
                gone.set()

        loop.add_reader(fd, read)
        try:
            read()  # what came with the answer to LISTEN
            await gone.wait()
        finally:
            if not gone.is_set():
                loop.remove_reader(fd)
