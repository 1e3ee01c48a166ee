"""Fixtures for the tests of the embedded job server."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.integration.jobserver.jobserver_harness import Harness, MakeHarness, Receiver
from tests.support.waiting import IN_VAIN_S


@pytest.fixture
async def receiver(aiohttp_server: AiohttpServer) -> Receiver:
    """A receiver of callbacks that serves."""
    receiver = Receiver()
    app = web.Application(client_max_size=1024 * 1024)
    app.router.add_post("/callback/{token}", receiver.take)
    server = await aiohttp_server(app)
    receiver.base = str(server.make_url("/")).rstrip("/")
    return receiver


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, receiver: Receiver) -> AsyncIterator[MakeHarness]:
    """Starts a job server whose jobs take no time by default."""
    connector = TCPConnector(force_close=True, limit=0)
    made: list[Harness] = []
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=IN_VAIN_S)) as client:

        async def make(options: Options | None = None) -> Harness:
            server = await aiohttp_server(create_app(options or Options(duration_s=0)))
            made.append(Harness(server, client, receiver))
            return made[-1]

        yield make
        for harness in made:
            await harness.close()
