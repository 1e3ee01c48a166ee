"""Clients that other people write, as they come, against a proxy as a user starts it."""

from __future__ import annotations

import pytest

from tests.support.http import new_ref
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.real_clients import CLIENTS, post_with


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_as_it_comes_gets_its_results(name: str, proxy: ProxyProcess, job_server: JobServer) -> None:
    """One after the other, over connections that it keeps as it likes; HTTP/1.1, whatever else it offers."""
    ref = new_ref()

    replies = await post_with(name, proxy.queue_job, {"account": ref, "ref": ref}, [0, 0, 30, 0, 300])

    assert [(reply.status, reply.document["state"]) for reply in replies] == [(200, "completed")] * 5
    assert {reply.version.removeprefix("HTTP/").replace("HTTP_1_1", "1.1") for reply in replies} == {"1.1"}
    assert len(job_server.submissions(ref)) == 5


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_as_it_comes_repeats_nothing_that_failed(
    name: str, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """A 500 is told, with all that the problem says; as it comes, none of them sends the job again."""
    ref = new_ref()

    replies = await post_with(name, proxy.queue_job, {"account": ref, "ref": ref, "fault": "failed"}, [0])

    (reply,) = replies
    assert (reply.status, reply.document["code"], reply.document["submitted"]) == (500, "job-failed", "yes")
    assert len(job_server.submissions(ref)) == 1
