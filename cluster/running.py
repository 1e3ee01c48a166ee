"""A whole cluster on this machine: started in order, kept running, stopped in order."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cluster import members, nginx
from cluster.members import ClusterError, Instance, Member
from cluster.options import Options
from cluster.postgresql import PostgreSQL, PostgreSQLError
from cluster.processes import reserve
from cluster.sqs import SqsStandIn, SqsStandInError

__all__ = ["Cluster"]

#: The delay before a process that has ended is restarted.
_AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.1


class Cluster:
    """A PostgreSQL server, a job server, instances and nginx. As a context manager it runs within the block."""

    def __init__(self, options: Options) -> None:
        """Reserve the ports, but start nothing yet. Raises ClusterError."""
        if not nginx.is_installed():
            raise ClusterError("nginx is not installed. Debian, Ubuntu: apt install nginx-light")
        try:
            self.database = PostgreSQL()
        except PostgreSQLError as exc:
            raise ClusterError(str(exc)) from exc
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-cluster-"))
        self.instances: list[Instance] = []
        #: The stand-in for Amazon SQS, if there is one.
        self.sqs: SqsStandIn | None = None
        self._members: list[Member] = []
        #: When to restart the members that have ended, by the monotonic clock.
        self._again: dict[Member, float] = {}
        try:
            self._make(options)
        except SqsStandInError as exc:
            self.close()
            raise ClusterError(str(exc)) from exc
        except OSError as exc:
            self.close()
            raise ClusterError(f"a port is taken: {exc}; --port chooses others") from exc

    def _make(self, options: Options) -> None:
        base = options.port
        port = reserve(base)
        self.url = f"http://127.0.0.1:{port.getsockname()[1]}"
        self.job_server = members.job_server(self.folder, port=base and base + 2, duration_s=options.duration_s)
        self._members.append(self.job_server)
        settings = {
            "JOURNAL": self.database.url(),
            "JOB_SERVER_URL": f"{self.job_server.url}/start",
            "CALLBACK_URL": f"{self.url}/callback",
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        if options.queue:
            self.sqs = SqsStandIn()
            settings |= self.sqs.make_queues()
        for number in range(1, options.instances + 1):
            at = base and base + 10 * number
            self.instances.append(Instance(number, self.folder, settings, port=at, admin=at and at + 1))
        self._members += self.instances
        self.gateway = members.gateway(self.folder, self.instances, port)
        self._members.append(self.gateway)

    def __enter__(self) -> Self:
        """Start everything, and return when jobs are accepted. Raises ClusterError."""
        try:
            self.database.start()
            for member in self._members:
                member.start()
            self.job_server.wait_until()
            for instance in self.instances:
                instance.wait_until("/readyz")
            self.gateway.wait_until("/healthz")
        except PostgreSQLError as exc:
            self.close()
            raise ClusterError(str(exc)) from exc
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything at once."""
        self.close()

    def watch(self, say: Callable[[str], None]) -> None:
        """Restart members that have ended, like systemd or Kubernetes, forever; `say` reports it."""
        while True:
            for member in self._members:
                if member.ended is not None:
                    self._begin_again(member, say)
            time.sleep(_LOOK_S)

    def _begin_again(self, member: Member, say: Callable[[str], None]) -> None:
        now = time.monotonic()
        if member not in self._again:
            self._again[member] = now + _AGAIN_S
            say(f"{member.name}, pid {member.pid}, {_how(member.ended or 0)}")
        elif now >= self._again[member]:
            del self._again[member]
            member.start()
            say(f"{member.name} is started again, pid {member.pid}")

    def drain(self) -> None:
        """Drain the instances: their jobs in flight are finished, and callbacks are still accepted."""
        for instance in self.instances:
            instance.signal(signal.SIGTERM)
        for instance in self.instances:
            instance.wait()

    def close(self) -> None:
        """End everything at once, and remove the database and the logs."""
        for member in reversed(self._members):
            member.close()
        self._members.clear()
        if self.sqs is not None:
            self.sqs.close()
        self.database.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with code {code}"
