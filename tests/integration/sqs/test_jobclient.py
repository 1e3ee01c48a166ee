"""`python -m jobclient sqs://NAME`: the jobs go through the queue."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from cluster.sqs import CREDENTIALS
from tests.support.proxy_process import ROOT

if TYPE_CHECKING:
    from tests.support.proxy_process import ProxyProcess
    from tests.support.queues import SomeQueues

pytestmark = pytest.mark.xdist_group("sqs")


async def test_fifty_jobs_go_through_the_queue(queues: SomeQueues, proxy: ProxyProcess) -> None:
    """Every one is replied to, and a reply for another client stays in the queue."""
    await queues.client.send_message(QueueUrl=queues.replies, MessageBody="for somebody else")
    names = [url.rpartition("/")[2] for url in (queues.jobs, queues.replies)]

    code, output, errors = await jobclient(f"sqs://{names[0]}", "--reply-queue", names[1], at=queues.sqs.url)

    assert code == 0, errors
    report = json.loads(output)
    assert (report["succeeded"], report["failed"], report["ids"]) == (50, 0, 50)
    assert sum(await queues.left(queues.replies)) == 1
    await queues.empty()


async def test_a_queue_that_is_not_there_is_one_line(queues: SomeQueues) -> None:
    """And the exit code of a failure."""
    code, output, errors = await jobclient("sqs://nowhere", "--reply-queue", "nor-this", at=queues.sqs.url)

    assert (code, output) == (1, "")
    assert errors.startswith("error: the queue nowhere cannot be used: ")
    assert errors.count("\n") == 1


async def jobclient(*arguments: str, at: str) -> tuple[int | None, str, str]:
    """Run it with these arguments; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "jobclient", *arguments, "--json", "--limit", "60"),
        env={**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": at},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
