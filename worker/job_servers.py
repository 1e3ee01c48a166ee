"""The job servers that a worker can talk to, by the names of their profiles. Most workers have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.job_client import JobClient

if TYPE_CHECKING:
    from shared.worker_config import WorkerConfig
    from worker.asking import Asker

__all__ = ["JobServers"]


class JobServers:
    """What is needed to talk to each of them; made before the fork, so that it costs no worker anything."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._clients = {one.profile.name: JobClient(config, one) for one in config.job_servers}
        self._first = self._clients[config.job_servers[0].profile.name]
        self._askers: dict[str, Asker] = {}

    @property
    def lost_reply_wait_s(self) -> float:
        """How long the callback is waited for after the connection broke before the reply."""
        return self._config.lost_reply_wait_s

    def client(self, profile: str) -> JobClient:
        """Return what submits to the job server of this profile; empty: to the first one."""
        return self._clients.get(profile, self._first)

    def asker(self, profile: str) -> Asker:
        """Return what asks the job server of this profile."""
        from worker.asking import Asker  # noqa: PLC0415 - jobs that get their callback need none

        if profile not in self._askers:
            self._askers[profile] = Asker(self.client(profile))
        return self._askers[profile]

    def finds_lost_jobs(self, profile: str) -> bool:
        """Return whether a job whose reply was lost can be asked for by names that are ours."""
        from shared.job_server.calls import Call  # noqa: PLC0415 - after a lost reply only

        server = self.client(profile).job_server
        status = server.profile.status
        return status is not None and not Call(server.url, server.profile.server, status).needs

    def close(self) -> None:
        """Close the connections that were kept open."""
        for client in self._clients.values():
            client.exchange.close()
