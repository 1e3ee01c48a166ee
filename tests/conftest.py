"""Fixtures that tests of several folders use."""

from __future__ import annotations

import gc
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.test_utils import TestServer
from aiohttp.web import Application
from hypothesis import HealthCheck, settings
from pytest_aiohttp import AiohttpServer

from cluster.postgresql import PostgreSQL
from jobserver.app import create_app
from jobserver.options import Options
from tests.support.coverage import measured
from tests.support.job_server import JobServer, end
from tests.support.order import shuffle
from tests.support.postgresql import create_database, own_server
from tests.support.proxy_process import ProxyProcess
from tests.support.quarantine import hold_back
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import IN_VAIN_S

# Other tests run on the same two cores, so how long an example takes means nothing, and half of the usual number is
# enough.
settings.register_profile("proxy", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proxy")

# A shell starts background processes with SIGINT ignored, nohup with SIGHUP ignored, and all processes of the tests
# would inherit that. The kernel sends SIGHUP and SIGCONT to a stopped worker whose fork server ends: if SIGHUP is
# ignored, it does not end the worker, and SIGCONT lets it continue.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The log of code that runs inside a test: what structlog prints by default takes a tenth of the CPU of some tests.
structlog.configure(processors=[structlog.processors.KeyValueRenderer(key_order=["event"])])


#: The folders whose tests count for the coverage.
MEASURED = ("unit", "integration")

_numbers = itertools.count(1)


@pytest.hookimpl(trylast=True)  # pytest has its own opinion of the order
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests in quarantine; if several processes run the tests, reorder them."""
    hold_back(config, items)
    if hasattr(config, "workerinput"):
        shuffle(items, Path(__file__).parent)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt modules and tests, which stay, from garbage collections: a full one looks at 300,000 objects of theirs."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure coverage only in the folders that count, and in the processes that their tests start."""
    with measured(counts=item.path.relative_to(Path(__file__).parent).parts[0] in MEASURED):
        return (yield)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """An HTTP client with a connection for each request, and a longer timeout than any proxy here."""
    connector = TCPConnector(force_close=True, limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=30 + IN_VAIN_S)) as session:
        yield session


@pytest.fixture(scope="session")
def job_server_port() -> Iterator[int]:
    """A port that is reserved for this test run: always bound, and used by one test after the other."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@pytest.fixture
async def aiohttp_server(aiohttp_server: AiohttpServer) -> AsyncIterator[AiohttpServer]:
    """Like pytest-aiohttp's fixture, but a connection that is open at the end does not outlive the event loop."""
    servers: list[TestServer] = []

    async def start(app: Application, **options: Any) -> TestServer:
        servers.append(await aiohttp_server(app, **options))
        return servers[-1]

    yield start
    for server in servers:
        await end(server)


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A fresh job server, to which `proxies` submit their jobs; jobs take no time unless they ask for it."""
    return JobServer(await aiohttp_server(create_app(Options(duration_s=0)), port=job_server_port))


@pytest.fixture(scope="session")
def proxies(job_server_port: int) -> Iterator[SharedProxies]:
    """Proxies that are started once for each set of settings and shared by the tests."""
    shared = SharedProxies(f"http://127.0.0.1:{job_server_port}/start")
    yield shared
    shared.close()


@pytest.fixture
def proxy(proxies: SharedProxies, job_server: JobServer) -> ProxyProcess:
    """A shared proxy with plain settings, with a fresh job server."""
    return proxies.get()


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[PostgreSQL]:
    """One server for all tests of this process; they fail if PostgreSQL is not installed (.ci/run installs it)."""
    with own_server() as server:
        yield server


@pytest.fixture
def postgresql(shared_postgresql: PostgreSQL) -> Iterator[PostgreSQL]:
    """That server, running before and after the test, whatever tests do to it."""
    yield shared_postgresql
    shared_postgresql.resume()
    if not shared_postgresql.pids:
        shared_postgresql.start()


@pytest.fixture
def database(postgresql: PostgreSQL) -> str:
    """The URL of an empty database of the test's own."""
    return create_database(postgresql, f"test_{next(_numbers)}")
