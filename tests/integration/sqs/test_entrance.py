"""The whole queue entrance: FIFO queues, large messages, shutdown, start, and a proxy without HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cluster.sqs import SqsStandIn
from tests.support.checked import checked
from tests.support.proxy_process import ROOT, ProxyProcess, environment
from tests.support.queues import SomeQueues
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from tests.support.job_server import JobServer

#: All in one process: the SDK takes each half a second to load, and as much the stand-in.
pytestmark = pytest.mark.xdist_group("sqs")
MIB: Final = 1_048_576


async def test_messages_of_a_fifo_group_run_one_after_the_other(
    sqs: SqsStandIn, job_server: JobServer, tmp_path: Path
) -> None:
    """In their order; the replies arrive in a FIFO queue."""
    async with SomeQueues.made(sqs, fifo=True) as queues:
        for number in range(4):
            await queues.send(
                json.dumps({"account": "x", "ref": f"f{number}", "duration": 0.2}),
                MessageGroupId="one",
                MessageDeduplicationId=f"d{number}",
            )
        bad = await queues.send("no JSON", MessageGroupId="two", MessageDeduplicationId="bad")
        settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
        with ProxyProcess.started(**settings):
            letter = await queues.dead_letter(bad)
            await queues.empty()
            replies = await queues.messages(queues.replies)

        assert letter.group == bad
        ran = [entry for entry in job_server.ledger.submissions if str(entry.ref).startswith("f")]
        assert [entry.ref for entry in ran] == ["f0", "f1", "f2", "f3"]
        assert all(later.at_s - earlier.at_s >= 0.2 for earlier, later in pairwise(ran))
        assert [reply.group for reply in replies] == [reply.attributes["Job-Id"] for reply in replies]
        assert len(replies) == 4


@pytest.mark.filterwarnings("ignore:Sending a large body")  # the SDK sends one, and copies it at once
async def test_messages_and_results_of_a_mebibyte_pass_and_larger_results_are_named(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer, client: ClientSession
) -> None:
    """A result that no message can hold is fetched over HTTP."""
    frame = json.dumps({"account": "x", "ref": "wide", "padding": ""})
    wide = await queues.send(frame[:-2] + "x" * (MIB - len(frame)) + '"}')
    large = await queues.send(json.dumps({"account": "x", "ref": "big", "fault": "big-result", "bytes": MIB - 1_000}))
    larger = await queues.send(json.dumps({"account": "x", "ref": "max", "fault": "big-result", "bytes": MIB - 50}))

    assert (await queues.reply(wide)).attributes["Outcome"] == "succeeded"
    assert len(job_server.started("wide")) == 1
    reply = await queues.reply(large)
    assert "Location" not in reply.attributes
    assert len(reply.body) >= MIB - 1_000
    named = await queues.reply(larger)
    location = named.attributes["Location"]
    assert location == f"/jobs/{named.attributes['Job-Id']}/result" == named.document["result"]
    async with client.get(proxy.url + location) as answer:
        assert len(await answer.read()) >= MIB - 50


async def test_at_the_end_jobs_in_flight_are_replied_to_and_new_messages_stay(
    queues: SomeQueues, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The exit code is 0, and messages that came too late are available to others at once."""
    running = await queues.send('{"account": "x", "ref": "running", "duration": 1.0}')
    await eventually(lambda: job_server.submissions("running"))

    stopping = asyncio.create_task(asyncio.to_thread(proxy.stop))
    await eventually(lambda: proxy.events_of("shutting down: draining jobs in flight"))
    await queues.send('{"account": "x", "ref": "late"}')

    assert await stopping == 0
    assert (await queues.reply(running)).attributes["Outcome"] == "succeeded"
    assert await queues.left() == (1, 0)
    assert job_server.submissions("late") == []


async def test_with_no_port_jobs_come_from_the_queue_alone(
    queues: SomeQueues, job_server: JobServer, client: ClientSession, tmp_path: Path
) -> None:
    """Callbacks and health have a listener of their own."""
    settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
    with ProxyProcess.started(PORT="", CALLBACK_PORT="0", **settings) as proxy:
        reply = await queues.reply(await queues.send('{"account": "x", "ref": "alone"}'))
        assert reply.attributes["Outcome"] == "succeeded"
        assert "public" not in proxy.listening
        for path, status in (("/readyz", 200), ("/healthz", 200), ("/queueJob", 404)):
            async with client.get(proxy.listening["callback"] + path) as answer:
                assert answer.status == status
        assert await asyncio.to_thread(proxy.stop) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SQS_QUEUE_URL": "{at}/123456789012/nowhere"}, "SQS_QUEUE_URL: {at}/123456789012/nowhere cannot be used: "),
        ({"SQS_REPLY_TO": "{at}/123456789012/nowhere"}, "SQS_REPLY_TO: {at}/123456789012/nowhere cannot be used: "),
        ({"AWS_DEFAULT_REGION": ""}, "SQS_QUEUE_URL: no region is known: set AWS_DEFAULT_REGION in the environment"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "SQS_QUEUE_URL: {jobs} cannot be used: the AWS SDK finds no credentials",
        ),
    ],
)
async def test_a_queue_that_cannot_be_used_ends_the_start_with_one_line(
    queues: SomeQueues,
    job_server: JobServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    words: str,
) -> None:
    """The line names the setting; a check says the same."""
    known = {"at": queues.sqs.url, "jobs": queues.jobs}
    given = {
        **queues.settings,
        **{name: value.format(**known) for name, value in settings.items()},
        "JOB_SERVER_URL": job_server.url,
        "JOURNAL": str(tmp_path / "jobs.sqlite3"),
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    variables = {name: value for name, value in environment(**given).items() if value or not name.startswith("AWS")}
    start = await asyncio.to_thread(_run, [sys.executable, str(ROOT / "run.py")], variables)
    assert start.returncode == 2
    lines = start.stderr.splitlines()
    assert lines[-1].startswith("error: " + words.format(**known)), lines
    assert len(lines) == 1
    monkeypatch.setattr(os, "environ", variables)  # the SDK reads its variables itself
    code, lines = await checked(**given)
    assert code == 1
    assert any(line.startswith("FAIL queue") and words.format(**known) in line for line in lines)


async def test_a_service_that_does_not_answer_is_waited_for(
    job_server: JobServer, tmp_path: Path, client: ClientSession
) -> None:
    """HTTP is served meanwhile, also during a later outage; one log line for its beginning and one for its end."""
    with SqsStandIn() as sqs:
        async with SomeQueues.made(sqs) as queues:
            settings = {"JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "jobs.sqlite3"), **queues.settings}
            with ProxyProcess.started(**settings) as proxy:
                sqs.pause()
                async with client.post(proxy.queue_job, json={"account": "x"}) as answer:
                    assert answer.status == 200
                sqs.resume()
                reply = await queues.reply(await queues.send('{"account": "x"}'))
                assert reply.attributes["Outcome"] == "succeeded"
        sqs.close()
        with ProxyProcess.started(**settings) as proxy:
            assert proxy.events_of("the queue cannot be reached; jobs come from it as soon as it can")
            async with client.post(proxy.queue_job, json={"account": "x"}) as answer:
                assert answer.status == 200
            await eventually(lambda: proxy.events_of("no messages can be taken from the queue"))


def _run(command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
