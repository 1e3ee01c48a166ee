"""Fixtures of the chaos tests: a proxy for the module, and the harness around each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from cluster.postgresql import PostgreSQL
from proxy.workers.orphans import become_subreaper
from tests.chaos.support.harness import HASTY, PATIENT, Chaos
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.support.places import shared_memory
from tests.support.postgresql import own_server


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process of pytest-xdist run all tests with the same proxy: each other one would start its own."""
    for item in items:
        shares = isinstance(item, pytest.Function) and "chaos" in item.fixturenames
        if shares and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("hasty" if item.get_closest_marker("hasty") else "patient"))


@pytest.fixture(scope="session", autouse=True)
def _subreaper() -> None:
    """Make this process the parent of processes that the proxy leaves behind, so that they are found."""
    become_subreaper()


@pytest.fixture(scope="session")
def job_server() -> Iterator[JobServerProcess]:
    """A job server for all tests; a job takes 50 ms unless it says otherwise."""
    with JobServerProcess() as server:
        yield server


@pytest.fixture(scope="session")
def folders() -> Iterator[Path]:
    """Where the proxies have their folders: in memory, as a journal that waits for a slow disk refuses jobs."""
    with TemporaryDirectory(prefix="chaos-", dir=shared_memory()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def start_proxy(job_server: JobServerProcess, folders: Path) -> StartProxy:
    """Start a proxy whose workers break when a job asks for it; the caller stops it."""

    def start(
        *, hasty: bool = False, prefix: Sequence[str] = (), stdout: int | None = None, **settings: str
    ) -> FaultyProxy:
        folder = Path(mkdtemp(prefix="proxy-", dir=folders))
        usual = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(folder / "journal")}
        usual |= HASTY if hasty else PATIENT
        proxy = FaultyProxy(folder, prefix=prefix, stdout=stdout, **(usual | settings))
        try:
            proxy.wait_until_listening()
        except BaseException:
            proxy.kill()
            raise
        return proxy

    return start


@pytest.fixture(scope="session")
def patient_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """The proxy of all tests that do not change it."""
    with start_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def hasty_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """The same, for tests with the mark `hasty`."""
    with start_proxy(hasty=True) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def own_postgresql() -> Iterator[PostgreSQL]:
    """A server for the tests of several instances: what happens to it must not affect other tests."""
    with own_server() as server:
        yield server


@pytest.fixture(scope="session")
def harmed_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy with few spares, whose fork server may be harmed."""
    with start_proxy(WORKER_SPARES="2") as proxy:
        yield proxy


@pytest.fixture
def faulty_proxy(request: pytest.FixtureRequest) -> FaultyProxy:
    """The test's proxy; a module may define its own."""
    name = "hasty_proxy" if request.node.get_closest_marker("hasty") else "patient_proxy"
    proxy: FaultyProxy = request.getfixturevalue(name)
    return proxy


@pytest.fixture
async def chaos(faulty_proxy: FaultyProxy, job_server: JobServerProcess) -> AsyncIterator[Chaos]:
    """The harness: canaries run while the test does, and at its end the proxy's resources are as before."""
    async with Chaos(faulty_proxy, job_server) as chaos:
        yield chaos
