"""Several instances on one database, each with a breakable connection to it, behind nginx, with one job server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from aiohttp import ClientError, ClientSession
from yarl import URL

from cluster.postgresql import PostgreSQL
from cluster.processes import reserve
from proxy.store.postgresql.rows import COLUMNS, record_of
from proxy.store.record import Record
from tests.chaos.support.hasty_instance import HastyInstance
from tests.chaos.support.processes import JobServerProcess
from tests.support.gateways import Times, running
from tests.support.http import Answer, fetch
from tests.support.line import Line
from tests.support.restarts import Restarts
from tests.support.waiting import eventually_blocking

__all__ = ["LEASE_S", "TIMEOUT_S", "Client", "Cluster", "Node", "clustered"]

LEASE_S: Final = 2.0
TIMEOUT_S: Final = 5.0
#: How much longer than a job nginx waits; a paused instance costs its clients this long in all.
_GATEWAY_S: Final = 3
_AGAIN_S: Final = 0.1


class HastyRestarts(Restarts):
    """An instance that is killed and started again; the start is repeated while the database is unavailable."""

    KIND = HastyInstance

    def start(self, **settings: str) -> None:
        """Start the next process, as often as it takes, like systemd."""
        while True:
            self.proxy = self.KIND(**(self._settings | settings))
            eventually_blocking(lambda: self.proxy.returncode is not None or self.proxy.events_of("listening"))
            if self.proxy.returncode is None:
                return
            assert "JOURNAL: cannot use" in self.proxy.stderr[-1], self.proxy.stderr


@dataclass(frozen=True, slots=True)
class Node:
    """One instance, and its connection to the database."""

    restarts: HastyRestarts
    line: Line

    @property
    def url(self) -> str:
        """Return the instance's own address, which bypasses nginx."""
        return self.restarts.url

    def pause(self, *, whole: bool = True) -> None:
        """Stop it as a hypervisor would: the front end with its workers, or only the front end."""
        self._signal(signal.SIGSTOP, whole=whole)

    def resume(self) -> None:
        """Resume all of it."""
        self._signal(signal.SIGCONT, whole=True)

    def _signal(self, number: signal.Signals, *, whole: bool) -> None:
        proxy = self.restarts.proxy
        below = [process.pid for process in proxy.descendants()] if whole else []
        for pid in (proxy.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(slots=True)
class Cluster:
    """Everything that a test of several instances uses."""

    nodes: list[Node]
    postgresql: PostgreSQL
    database: str
    job_server: JobServerProcess
    #: The address of nginx.
    url: str

    @property
    def queue_job(self) -> str:
        """Return where jobs are posted."""
        return f"{self.url}/queueJob"

    def records(self) -> list[Record]:
        """Return all records in the database."""
        columns = COLUMNS.replace("{j}", "j")
        with psycopg.connect(self.database) as connection:
            return [record_of(row) for row in connection.execute(f"SELECT {columns} FROM proxy_jobs j").fetchall()]  # noqa: S608

    def record(self, job_id: str) -> Record:
        """Return the record of a job."""
        (found,) = [record for record in self.records() if record.id == job_id]
        return found

    async def ledger(self, client: ClientSession) -> dict[str, Any]:
        """Return everything that the job server knows."""
        found: dict[str, Any] = (await fetch(client, "GET", f"{self.job_server.base}/ledger")).document
        return found

    async def submissions(self, client: ClientSession, ref: str) -> list[dict[str, Any]]:
        """Return the submissions of one job that the job server did not refuse."""
        entries = (await self.ledger(client))["submissions"]
        return [entry for entry in entries if entry["ref"] == ref and not entry["refused"]]


@contextlib.asynccontextmanager
async def clustered(
    postgresql: PostgreSQL, database: str, folder: Path, count: int = 3, lease_s: float = LEASE_S, **settings: str
) -> AsyncIterator[Cluster]:
    """Run a cluster within the block; nothing of it is left afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        port = stack.enter_context(contextlib.closing(reserve())).getsockname()[1]
        job_server = stack.enter_context(JobServerProcess("--callback-retries", "1000"))
        url = f"http://127.0.0.1:{port}"
        usual = {
            "LEASE_S": str(lease_s),
            "JOB_SERVER_URL": job_server.url,
            "CALLBACK_URL": f"{url}/callback",
            "TRUSTED_PROXIES": "127.0.0.1",
            "JOB_TIMEOUT": f"{TIMEOUT_S:g}",
            "LOST_REPLY_WAIT": "1",
        }
        lines = [await stack.enter_async_context(Line(postgresql.port)) for _ in range(count)]
        started = await asyncio.gather(
            *(
                asyncio.to_thread(
                    HastyRestarts,
                    folder,
                    **(usual | settings | {"JOURNAL": str(URL(database).with_port(line.port))}),
                )
                for line in lines
            )
        )
        for restarts in started:
            stack.enter_context(restarts)
        answer_s = float((usual | settings)["JOB_TIMEOUT"]) + _GATEWAY_S
        nodes = [Node(restarts, line) for restarts, line in zip(started, lines, strict=True)]
        gateway = running(
            "nginx", port, [node.url for node in nodes], folder, Times(answer=f"{answer_s:g}s"), tls=False
        )
        await asyncio.to_thread(gateway.__enter__)
        stack.push_async_callback(asyncio.to_thread, gateway.__exit__, None, None, None)
        yield Cluster(nodes, postgresql, database, job_server, url)


@dataclass(slots=True)
class Client:
    """One job's client: it repeats the same request until it gets a final answer, under a key if it has one."""

    session: ClientSession
    url: str
    job: dict[str, Any]
    key: str | None
    answers: list[Answer] = field(default_factory=list)
    #: How often its connection broke.
    broken: int = 0

    async def run(self) -> Answer | None:
        """Return the final answer; None if there will be none, because a retry might submit the job twice."""
        headers = {} if self.key is None else {"Idempotency-Key": f'"{self.key}"'}
        while True:
            try:
                answer = await fetch(self.session, "POST", self.url, json=self.job, headers=headers)
            except (ClientError, OSError):
                self.broken += 1
                if self.key is None:
                    return None
            else:
                self.answers.append(answer)
                if not self._may_ask_again(answer):
                    return answer
            await asyncio.sleep(_AGAIN_S)

    def _may_ask_again(self, answer: Answer) -> bool:
        if answer.status == 200:
            return False
        document = json.loads(answer.body)
        gateways = document["type"] == "about:blank"
        return bool(document["retry_safe"] or (self.key is not None and (gateways or answer.status == 503)))
