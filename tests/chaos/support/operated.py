"""A proxy as its operators and clients have it before them: what can be done to it, and what it says of itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.chaos.support.figures import Figures
from tests.chaos.support.prometheus import Scrapes, severities
from tests.support.http import Answer, fetch, new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

__all__ = ["Operated", "Trouble", "check"]

Proxy = TypeVar("Proxy", bound=ProxyProcess)

#: How long a page is waited for. Prometheus is more patient, and what stands still stands still.
_SCRAPE: Final = ClientTimeout(total=3)
_LATE: Final = "0.25"


@dataclass(frozen=True)
class Operated(Generic[Proxy]):
    """A proxy, its job server, and who talks to it."""

    proxy: Proxy
    session: ClientSession
    job_server: JobServer

    @classmethod
    async def sound(cls, proxy: Proxy, session: ClientSession, job_server: JobServer) -> Self:
        """Return it once jobs succeed."""
        operated = cls(proxy, session, job_server)

        async def succeeds() -> bool:
            return (await operated.job()).status == 200

        await eventually(succeeds)
        return operated

    async def page(self) -> str:
        """Return what a scrape gets; nothing if there is no answer."""
        try:
            return (await fetch(self.session, "GET", f"{self.proxy.admin}/metrics", timeout=_SCRAPE)).body.decode()
        except (ClientError, TimeoutError):
            return ""

    async def value(self, name: str) -> int:
        """Return a metric, over all its labels."""
        return Figures(await self.page()).value(name)

    async def until_grown(self, name: str, before: int) -> None:
        """Wait until a metric is more than `before`."""

        async def grown() -> bool:
            return await self.value(name) > before

        await eventually(grown)

    async def fate(self, fate: str) -> int:
        """Return to how many messages this has happened."""
        return Figures(await self.page()).by("queue_messages_total", "fate")[fate,]

    async def late_timers(self) -> int:
        """Return how many timers of the event loop were late."""
        figures = Figures(await self.page())
        name = "event_loop_lag_seconds"
        return figures.value(f"{name}_count") - figures.by(f"{name}_bucket", "le")[_LATE,]

    async def spares(self) -> list[int]:
        """Return the process ids of the workers without a job."""
        workers = (await fetch(self.session, "GET", f"{self.proxy.admin}/workers")).document
        return [worker["pid"] for worker in workers if worker["state"] == "spare"]

    async def job(self, **fields: object) -> Answer:
        """Post a job, and return its answer."""
        return await post_job(self.session, self.proxy.queue_job, headers=None, **fields)

    async def jobs(self, count: int, **fields: object) -> list[Answer]:
        """Run so many jobs at a time."""
        return await asyncio.gather(*(self.job(**fields) for _ in range(count)))

    async def begun(self) -> str:
        """Begin a job that is never called back; return where it could be."""
        ref = new_ref()
        headers = {"Prefer": "respond-async"}
        accepted = await post_job(self.session, self.proxy.queue_job, headers=headers, ref=ref, fault="never")
        assert accepted.status == 202
        await eventually(lambda: self.job_server.submissions(ref))
        return self.job_server.callback_url(ref)

    async def call_back(self, url: str, body: bytes = b'{"state": "completed"}') -> Answer:
        """Send a callback."""
        return await fetch(
            self.session, "POST", url, data=io.BytesIO(body), headers={"Content-Type": "application/json"}
        )

    async def cancel_all(self) -> None:
        """Cancel every job in flight."""
        workers = (await fetch(self.session, "GET", f"{self.proxy.admin}/workers")).document
        for job_id in filter(None, (worker["job_id"] for worker in workers)):
            await fetch(self.session, "DELETE", f"{self.proxy.url}/jobs/{job_id}")

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Have as many jobs in flight as there may be."""
        try:
            for _ in range(await self.value("jobs_limit")):
                await self.begun()
            yield
        finally:
            await self.cancel_all()


#: Makes a trouble, which lasts as long as the block. It may say which page it begins with: what was counted before then
#: is none of it.
Trouble = Callable[[Operated[Proxy]], AbstractAsyncContextManager[str | None]]


async def check(
    operated: Operated[Proxy],
    alert: str,
    trouble: Trouble[Proxy],
    folder: Path,
    work: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Check that an alert fires if its trouble goes on, and is silent as long as work is done: by default a job."""
    first = await operated.page()
    await (work or operated.job)()
    second = await operated.page()
    if alert == "AsyncJobProxyEventLoopLags":
        first = second  # it tells what else this machine does
    async with trouble(operated) as begun:
        third = await operated.page()
    scrapes = Scrapes(sound=(first, second), trouble=(begun or second, third))
    scrapes.check(folder, f'alertname="{alert}"', firing={alert: severities()[alert]})
