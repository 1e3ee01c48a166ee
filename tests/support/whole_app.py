"""A whole front end without sockets and processes: its routes are called by plain ASGI, the test controls its jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, cast

import pytest
from starlette.routing import Route, Router

from proxy.jobs.job import Job
from proxy.run.wiring import create_app
from proxy.store.protocol import Peers
from proxy.workers.status import PoolStatus
from shared import settings
from shared.job_server.loader import load
from shared.worker_config import JobServer
from tests.support.asgi import ask
from tests.support.failing_store import FailingStore
from tests.support.http import Answer
from tests.support.instances import StatedHeadroom
from tests.support.jumping_loop import nothing_moves
from tests.support.runners import SUBMIT, Step, SteppedRunner

__all__ = ["DONE", "JSON_TYPE", "WholeApp"]

JSON_TYPE: Final = {"Content-Type": "application/json"}
NONE: Final[Mapping[str, str]] = MappingProxyType({})
#: A callback that says that its job succeeded.
DONE: Final = b'{"state": "completed", "cost": 1.10}'


class WholeApp:
    """The result of `create_app`, with another `Runner` and a store that fails on request."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        store: FailingStore | None = None,
        peers: Peers | None = None,
        job_server: JobServer | None = None,
        **variables: str,
    ) -> None:
        """`variables`: settings, as in the environment; `peers`: the instances that share the store."""
        self.stepped = SteppedRunner()
        self.headroom = StatedHeadroom()
        self.store = store or FailingStore()
        self.pool = SimpleNamespace(on_hold="", status=PoolStatus, size=int)
        tables: list[list[Route]] = []
        operators: list[list[Route]] = []

        def kept(routes: list[Route], where: list[list[Route]], **options: Any) -> Router:
            where.append(routes)
            return Router(routes, **options)

        patch.setattr("proxy.run.wiring.Router", partial(kept, where=tables))
        patch.setattr("proxy.run.wiring_operators.Router", partial(kept, where=operators))
        patch.setattr("proxy.run.wiring_core.LocalRunner", lambda *_: self.stepped)
        patch.setattr("proxy.run.wiring_core.Headroom", lambda *_, **__: self.headroom)
        self.parts = create_app(
            settings.load(variables),
            [job_server or JobServer(url="http://job-server/start", profile=load("spreedly"))],
            pool=cast("Any", self.pool),
            store=self.store,
            callback_url="http://proxy/callback",
            peers=peers,
        )
        self.parts.core.observers.loop_lag.stop()  # the clock jumps
        listeners = (self.parts.public, self.parts.callbacks, self.parts.operators.app)
        #: Every route of each listener.
        self.routes = list(zip(listeners, [*tables, *operators], strict=True))

    async def close(self) -> None:
        """End the tasks of the front end."""
        for job in self.parts.core.in_flight:
            self.parts.core.dispatcher.cancel(job.id)
        self.store.hanging = False
        await self.parts.core.dispatcher.drain()
        await self.parts.core.observers.close()

    @property
    def job(self) -> Job:
        """The only job in flight."""
        (job,) = self.parts.core.in_flight
        return job

    @property
    def callback_route(self) -> Any:  # noqa: ANN401 - ASGI, for its private members
        """What answers callbacks."""
        return next(route.endpoint for _, routes in self.routes for route in routes if "/callback/" in route.path)

    async def ask(self, method: str, path: str, **members: Any) -> Answer:
        """Return the answer of a route for clients, or of the callback route."""
        return await ask(self.parts.public, method, path, **members)

    async def ask_admin(self, method: str, path: str, **members: Any) -> Answer:
        """Return the answer of a route for operators."""
        return await ask(self.parts.operators.app, method, path, **members)

    async def post(self, body: bytes = b"{}", headers: Mapping[str, str] = NONE, path: str = "/queueJob") -> Answer:
        """Post a job and return its answer."""
        return await self.ask("POST", path, body=body, headers={**JSON_TYPE, **headers})

    def posting(self, body: bytes = b"{}", headers: Mapping[str, str] = NONE) -> asyncio.Task[Answer]:
        """Post a job in the background."""
        return asyncio.create_task(self.post(body, headers))

    async def begun(self, *steps: Step, body: bytes = b"{}", headers: Mapping[str, str] = NONE) -> Job:
        """Return a job that was posted with `Prefer: respond-async`, after these steps."""
        before = set(self.parts.core.in_flight)
        posting = self.posting(body, {"Prefer": "respond-async", **headers})
        await nothing_moves()
        (job,) = set(self.parts.core.in_flight) - before
        self.stepped.tell(job, *(steps or [Step.QUEUE]))
        answer = await posting
        assert (answer.status, answer.headers["Job-Id"]) == (202, job.id)
        await nothing_moves()
        return job

    async def waiting(self, headers: Mapping[str, str] = NONE) -> Job:
        """Return a job that the job server has."""
        return await self.begun(*SUBMIT, headers=headers)

    async def call_back(self, job: Job, body: bytes = DONE, method: str = "POST") -> Answer:
        """Send the job server's callback."""
        return await self.ask(method, f"/callback/{job.token}", body=body, headers=JSON_TYPE)

    async def status(self, job: Job) -> dict[str, Any]:
        """Return the job's status document."""
        answer = await self.ask("GET", f"/jobs/{job.id}")
        assert answer.status == 200, answer
        document: dict[str, Any] = json.loads(answer.body)
        return document
