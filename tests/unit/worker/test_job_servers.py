"""Which job server a job is for."""

from __future__ import annotations

import pytest

from shared.job_server import loader
from shared.worker_config import JobServer, WorkerConfig
from worker import job_servers
from worker.job_client import JobClient
from worker.job_servers import JobServers


def test_each_job_server_is_prepared_once_and_before_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that prepared one after the fork would pay for it with each job; an unknown name means the first."""
    made: list[str] = []

    def make(config: WorkerConfig, job_server: JobServer) -> JobClient:
        made.append(job_server.profile.name)
        return JobClient(config, job_server)

    monkeypatch.setattr(job_servers, "JobClient", make)
    names = ["spreedly", "cog"]
    servers = tuple(JobServer(url="http://127.0.0.1:9/", profile=loader.load(name)) for name in names)
    all_of_them = JobServers(
        WorkerConfig(job_servers=servers, max_body_bytes=1_000, submit_retries=0, lost_reply_wait_s=0, max_jobs=1)
    )

    clients = [all_of_them.client(name) for name in (*names, "", "gone")]

    assert made == names
    assert [client.job_server for client in clients] == [*servers, servers[0], servers[0]]
