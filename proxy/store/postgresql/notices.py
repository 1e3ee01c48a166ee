"""Notices between instances: NOTIFY to the instance's own channel, or to one for all, with a job's id.

A notice only says that the job's row has changed. It may be lost; then a waiting client gets its answer half a second
later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import psycopg

from proxy.store.postgresql.ends import lasting
from proxy.store.postgresql.health import PATIENCE_S, Health
from proxy.store.postgresql.orders import Lane
from proxy.store.postgresql.session import GoneError, Session
from proxy.store.postgresql.statements import NOTIFY

__all__ = ["EVERYONE", "Notices"]

_AGAIN_S: Final = 0.2
#: In place of an instance.
EVERYONE: Final = "everyone"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Notice:
    instance: str
    job_id: str
    #: By the monotonic clock.
    until: float
    size_bytes: int = 100


class Notices:
    """Sends notices to other instances, and receives those for this one."""

    def __init__(
        self,
        sending: Session,
        listening: Session,
        health: Health,
        instance: str,
        *,
        on_notice: Callable[[str], object],
        on_gap: Callable[[], None],
    ) -> None:
        """Start; must run inside an event loop. `on_notice`, `on_gap`: see `Listener`."""
        self._loop = asyncio.get_running_loop()
        self._session = sending
        self._lane: Lane[_Notice] = Lane(sending, health, carry_out=self._send, give_up=_forget)
        self._listener = Listener(listening, instance, on_notice=on_notice, on_gap=on_gap)
        self.look, self.flush = self._lane.look, self._lane.flush

    @property
    def heard(self) -> int:
        """How many notices were received."""
        return self._listener.heard

    def send(self, instances: Iterable[str], job_id: str) -> None:
        """Notify instances soon that something was recorded of a job."""
        until = self._loop.time() + PATIENCE_S
        for instance in instances:
            self._lane.add(_Notice(instance=instance, job_id=job_id, until=until))

    async def close(self) -> None:
        """Stop both."""
        await self._listener.close()
        await self._lane.close()

    async def _send(self, notices: list[_Notice]) -> None:
        once = sorted({(notice.instance, notice.job_id) for notice in notices})
        await self._session.run(NOTIFY, [instance for instance, _ in once], [job_id for _, job_id in once])


class Listener:
    """Receives the notices for this instance, and reconnects when the connection is lost."""

    def __init__(
        self, session: Session, instance: str, *, on_notice: Callable[[str], object], on_gap: Callable[[], None]
    ) -> None:
        """`on_notice` gets the job's id; `on_gap` is called when notices may have been missed."""
        self._session = session
        self._instance = instance
        self._on_notice = on_notice
        self._on_gap = on_gap
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(lasting(self._run))
        #: How many notices were received.
        self.heard = 0

    async def close(self) -> None:
        """Stop receiving."""
        self._closing = True
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=1.0)
        self._session.close()

    async def _run(self) -> None:
        while not self._closing:
            began = time.monotonic()
            try:
                wire = await self._session.connect()
                wire.on_notice = self._on_heard
                await wire.script(f'LISTEN "proxy_{self._instance}"; LISTEN "proxy_{EVERYONE}"')
                self._on_gap()
                await wire.gone.wait()
            except (GoneError, psycopg.Error, OSError):
                pass
            await asyncio.sleep(max(0.0, began + _AGAIN_S - time.monotonic()))

    def _on_heard(self, job_id: str) -> None:
        self.heard += 1
        self._on_notice(job_id)


def _forget(notice: _Notice, error: Exception) -> None:
    """Do nothing: a notice may be lost."""
