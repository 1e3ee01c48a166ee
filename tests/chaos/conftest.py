"""Fixtures of the chaos tests: a proxy of the module's own, and the harness around each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from proxy.workers.orphans import become_subreaper
from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy


@pytest.fixture(scope="session", autouse=True)
def _subreaper() -> None:
    """Make this process inherit what the proxy leaves behind, so that it is seen."""
    become_subreaper()


@pytest.fixture(scope="session")
def job_server() -> Iterator[JobServerProcess]:
    """A job server for all tests; a job takes 50 ms unless it says otherwise."""
    with JobServerProcess() as server:
        yield server


@pytest.fixture(scope="session")
def start_proxy(job_server: JobServerProcess, tmp_path_factory: pytest.TempPathFactory) -> StartProxy:
    """Start a proxy whose workers break where a job asks them to; who starts it ends it."""

    def start(*, prefix: Sequence[str] = (), stdout: int | None = None, **settings: str) -> FaultyProxy:
        folder = tmp_path_factory.mktemp("proxy")
        defaults = {
            "JOB_SERVER_URL": job_server.url,
            "JOB_TIMEOUT": str(TIMEOUT_S),
            "LOST_REPLY_WAIT": "0.5",
            "JOURNAL": str(folder / "journal"),
        }
        proxy = FaultyProxy(folder, prefix=prefix, stdout=stdout, **(defaults | settings))
        try:
            proxy.wait_until_listening()
        except BaseException:
            proxy.kill()
            raise
        return proxy

    return start


@pytest.fixture(scope="session")
def default_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """The proxy of all tests that leave it as it was."""
    with start_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def faulty_proxy(default_proxy: FaultyProxy) -> FaultyProxy:
    """The proxy of the module's tests; a module may have one of its own."""
    return default_proxy


@pytest.fixture
async def chaos(faulty_proxy: FaultyProxy, job_server: JobServerProcess) -> AsyncIterator[Chaos]:
    """The harness: canaries fly while the test runs, and at its end everything is as it was."""
    async with Chaos(faulty_proxy, job_server) as chaos:
        yield chaos
