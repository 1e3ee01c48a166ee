"""The front end is killed again and again while persistent clients send jobs.

At the end, three sides have to agree: what clients were told, what the journal holds, and what the job server's ledger
says. A failure names its seed; the seed repeats the jobs and the moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientError, ClientSession

from proxy.store.journal.file import JournalFile
from proxy.store.record import Record
from tests.chaos.support.processes import JobServerProcess
from tests.support.http import Answer, fetch
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

JOBS: Final = 210
CLIENTS: Final = 24
KILLS: Final = 6
SEED: Final = int(os.environ.get("RESTART_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
#: Faults of the jobs: the front end's death has to be combined with each.
FAULTS: Final = ("none",) * 12 + ("early", "duplicate", "failed", "drop-but-run", "refuse-first", "slow-reply", "never")


@dataclass(slots=True)
class Client:
    """One job's client: it sends the same request under the same key until it gets a final answer."""

    session: ClientSession
    url: str
    job: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)

    async def run(self) -> Answer:
        """Return the final answer."""
        headers = {"Idempotency-Key": f'"{self.job["ref"]}"'}
        while True:
            try:
                answer = await fetch(self.session, "POST", self.url, json=self.job, headers=headers)
            except (ClientError, OSError):
                await asyncio.sleep(0.05)
                continue
            self.answers.append(answer)
            if answer.status == 200 or not answer.document["retry_safe"]:
                return answer
            await asyncio.sleep(0.05)


async def send_all(session: ClientSession, url: str, jobs: list[dict[str, Any]]) -> list[Client]:
    """Send every job, a limited number at a time; return their clients when each has its final answer."""
    clients = [Client(session, url, job) for job in jobs]
    waiting = iter(clients)

    async def one_after_the_other() -> None:
        for client in waiting:
            await client.run()

    await asyncio.gather(*(one_after_the_other() for _ in range(CLIENTS)))
    return clients


async def kill_again_and_again(restarts: Restarts, rng: random.Random, done: asyncio.Event) -> None:
    """Kill the front end at random moments, some of them soon after its start."""
    while restarts.kills < KILLS and not done.is_set():
        await asyncio.sleep(rng.choice((rng.uniform(0, 0.1), rng.uniform(0.1, 0.6))))
        await asyncio.to_thread(restarts.restart)


@pytest.mark.timeout(240)
async def test_three_sides_agree_whenever_the_front_end_is_killed(client: ClientSession, tmp_path: Path) -> None:
    """No job is submitted twice, no accepted callback is lost, every client is answered."""
    print(f"RESTART_SEED={SEED}")  # noqa: T201 - shown with a failure
    rng = random.Random(SEED)
    jobs = [
        {
            "account": f"a{n}",
            "ref": f"r{n}",
            "fault": rng.choice(FAULTS),
            "duration": rng.uniform(0, 0.3),
            "delay": 0.002,
        }
        for n in range(JOBS)
    ]
    with (
        JobServerProcess("--callback-retries", "100") as job_server,
        Restarts(tmp_path, JOB_SERVER_URL=job_server.url, JOB_TIMEOUT="4", LOST_REPLY_WAIT="1") as restarts,
    ):
        done = asyncio.Event()
        killer = asyncio.create_task(kill_again_and_again(restarts, rng, done))
        clients = await send_all(client, restarts.queue_job, jobs)
        done.set()
        await killer
        await eventually(lambda: _is_quiet(client, job_server), 30, every_s=0.1)
        ledger = (await fetch(client, "GET", f"{job_server.base}/ledger")).document
        assert restarts.kills >= 4, "the jobs were over before the front end was killed often enough"
        assert await asyncio.to_thread(restarts.proxy.stop) == 0
        assert restarts.leftovers() == []
        with closing(JournalFile(str(restarts.journal))) as journal:
            check(clients, ledger, journal)


def check(clients: list[Client], ledger: dict[str, Any], journal: JournalFile) -> None:
    """Compare the three sides."""
    started: dict[str, list[dict[str, Any]]] = {str(client.job["ref"]): [] for client in clients}
    for submission in ledger["submissions"]:
        if not submission["refused"]:
            started[submission["ref"]].append(submission)
    assert {ref: len(found) for ref, found in started.items() if len(found) > 1} == {}, "submitted twice"
    accepted = {entry["id"] for entry in ledger["callbacks"] if entry["status"] == 200}
    assert journal.unfinished() == []
    for client in clients:
        check_job(client, started[client.job["ref"]], accepted, journal)
    ends = Counter((client.job["fault"], client.answers[-1].document.get("code", "succeeded")) for client in clients)
    print(ends)  # noqa: T201 - shown with a failure


def check_job(client: Client, started: list[dict[str, Any]], accepted: set[str], journal: JournalFile) -> None:
    """Compare what the three sides say about one job."""
    answer = client.answers[-1]
    record = journal.find("id", answer.headers["Job-Id"], 0)
    assert record is not None, "the journal does not know what the client was told"
    assert record.callback is None or json.loads(record.callback)["id"] == started[0]["id"]
    if started and started[0]["id"] in accepted:
        assert record.callback is not None, "a callback was accepted and lost"
    if answer.status == 200:
        assert answer.body == record.callback
    else:
        check_failure(answer, started, record)


def check_failure(answer: Answer, started: list[dict[str, Any]], record: Record) -> None:
    """Check that a failure tells the truth about the submission."""
    document = answer.document
    match document["submitted"]:
        case "no":
            raise AssertionError("a client that may send its job again gave up")
        case "yes":
            assert started, "it was not submitted"
    if document["code"] == "job-failed":
        assert record.says_failed
    else:
        assert record.failure is not None
        assert record.failure.code == document["code"]
        # A callback that came after the answer proves more than was known at the end.
        assert record.failure.submitted in {document["submitted"], "yes"}


async def _is_quiet(client: ClientSession, job_server: JobServerProcess) -> bool:
    """Return whether every job that runs has had its callback accepted."""
    ledger = (await fetch(client, "GET", f"{job_server.base}/ledger")).document
    ran = {entry["id"] for entry in ledger["submissions"] if entry["ran"] and entry["fault"] != "never"}
    return ran <= {entry["id"] for entry in ledger["callbacks"] if entry["status"] == 200}
