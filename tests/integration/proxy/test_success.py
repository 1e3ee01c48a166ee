"""A job that goes well, over HTTP, through a real worker, to a real job server and back."""

from __future__ import annotations

from aiohttp import ClientSession

from tests.support.http import new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess


async def test_a_job_is_answered_with_its_result(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The answer is 200 with the job server's own document, and the ledger has one submission."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.document["id"] == job_server.submission(ref).id
    assert answer.document["state"] == "completed"
