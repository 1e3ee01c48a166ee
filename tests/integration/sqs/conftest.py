"""A stand-in for Amazon SQS, and proxies that take jobs from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster.sqs import SqsStandIn
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.queues import SomeQueues


@pytest.fixture(scope="session")
def sqs() -> Iterator[SqsStandIn]:
    """One server for all tests; each test has its own queues."""
    with SqsStandIn() as server:
        yield server


@pytest.fixture
async def queues(sqs: SqsStandIn) -> AsyncIterator[SomeQueues]:
    """Standard queues."""
    async with SomeQueues.made(sqs) as queues:
        yield queues


@pytest.fixture
def proxy(queues: SomeQueues, job_server: JobServer, tmp_path: Path) -> Iterator[ProxyProcess]:
    """A proxy that takes jobs from the queue and submits them to the test's job server."""
    settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), "WORKER_SPARES": "4"}
    with ProxyProcess.started(**queues.settings, **settings) as proxy:
        yield proxy
