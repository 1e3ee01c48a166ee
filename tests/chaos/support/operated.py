"""A proxy as its operators and clients use it: what they can do to it, and what its metrics say."""

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

__all__ = ["LOOK_S", "Operated", "Trouble", "check"]

Proxy = TypeVar("Proxy", bound=ProxyProcess)

#: How long to wait for a page. Prometheus waits longer, which changes nothing for a stopped proxy.
_SCRAPE: Final = ClientTimeout(total=3)
_LATE: Final = "0.25"
#: How often to look at a page: making and reading one takes milliseconds.
LOOK_S: Final = 0.1


@dataclass(frozen=True)
class Operated(Generic[Proxy]):
    """A proxy, its job server, and their client."""

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
        """Return the page that a scrape gets; empty if there is no answer."""
        try:
            return (await fetch(self.session, "GET", f"{self.proxy.admin}/metrics", timeout=_SCRAPE)).body.decode()
        except (ClientError, TimeoutError):
            return ""

    async def value(self, name: str) -> int:
        """Return a metric, summed over all its labels."""
        return Figures(await self.page()).value(name)

    async def until_grown(self, name: str, before: int) -> None:
        """Wait until a metric is more than `before`."""

        async def grown() -> bool:
            return await self.value(name) > before

        await eventually(grown, every_s=LOOK_S)

    async def fate(self, fate: str) -> int:
        """Return how many messages had this fate."""
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
        """Run this many jobs at a time."""
        return await asyncio.gather(*(self.job(**fields) for _ in range(count)))

    async def begun(self) -> str:
        """Begin a job that is never called back; return its callback address."""
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
    async def paused(self) -> AsyncIterator[None]:
        """Pause the intake for as long as the block lasts."""
        headers = {"X-Requested-By": "dashboard", "Origin": self.proxy.admin}
        paused = await fetch(self.session, "POST", f"{self.proxy.admin}/intake/pause", headers=headers)
        assert paused.status == 200
        try:
            yield
        finally:
            await fetch(self.session, "POST", f"{self.proxy.admin}/intake/resume", headers=headers)

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Keep the maximum number of jobs in flight."""
        try:
            for _ in range(await self.value("jobs_limit")):
                await self.begun()
            yield
        finally:
            await self.cancel_all()


#: Causes a trouble for as long as the block lasts. It may yield the page to begin with: increases before that page do
#: not count.
Trouble = Callable[[Operated[Proxy]], AbstractAsyncContextManager[str | None]]


async def check(
    operated: Operated[Proxy],
    alert: str,
    trouble: Trouble[Proxy],
    folder: Path,
    work: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Check that an alert fires if its trouble persists, and is silent while work is done: by default a job."""
    first = await operated.page()
    await (work or operated.job)()
    second = await operated.page()
    if alert == "AsyncJobProxyEventLoopLags":
        first = second  # it depends on the load of this machine
    async with trouble(operated) as begun:
        third = await operated.page()
    scrapes = Scrapes(sound=(first, second), trouble=(begun or second, third))
    scrapes.check(folder, {alert}, firing={alert: severities()[alert]})
