"""The proxy of these tests, once for each kind of store."""

from __future__ import annotations

import pytest

from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the shared proxy has its journal."""
    return str(tmp_path_factory.mktemp("journal") / "jobs.sqlite3")


@pytest.fixture(params=["memory", "journal"])
def proxy(request: pytest.FixtureRequest, proxies: SharedProxies, job_server: JobServer, journal: str) -> ProxyProcess:
    """A proxy with a fresh job server, whose jobs time out after two seconds."""
    return proxies.get(JOB_TIMEOUT="2", JOURNAL=journal if request.param == "journal" else "")
