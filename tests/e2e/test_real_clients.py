"""Third-party clients with their defaults, against a proxy as a user starts it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.support.http import fetch, new_ref
from tests.support.job_server import JobServer
from tests.support.line import Line
from tests.support.proxy_process import ProxyProcess
from tests.support.real_clients import CLIENTS, GO, post_with, require
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: How long the proxy keeps an idle connection, where that matters.
KEPT_S = 2
RESULT = b'{"id": "0123456789abcdef", "state": "completed"}'


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server that repeats a callback: its kept connections to the proxy may be closed as idle, too."""
    options = Options(duration_s=0, callback_retries=3)
    return JobServer(await aiohttp_server(create_app(options), port=job_server_port))


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
    """A 500 is reported with the whole problem; by default, no client retries the job."""
    ref = new_ref()

    replies = await post_with(name, proxy.queue_job, {"account": ref, "ref": ref, "fault": "failed"}, [0])

    (reply,) = replies
    assert (reply.status, reply.document["code"], reply.document["submitted"]) == (500, "job-failed", "yes")
    assert len(job_server.submissions(ref)) == 1


async def test_what_go_sends_again_by_itself_is_submitted_once(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The connection breaks after the request and before the answer: with a key, Go retries on another one."""
    require(GO)
    ref = new_ref()
    async with Line(port_of(proxy)) as line:
        url = f"http://127.0.0.1:{line.port}/queueJob"
        posting = asyncio.create_task(post_with(GO, url, held(ref), [0, 0], f"key-{ref}"))
        await answer(client, job_server, ref, 1)
        await eventually(lambda: len(job_server.submissions(ref)) == 2)
        assert line.connections == 1  # the second request came on the connection of the first
        line.cut()
        line.mend()
        await eventually(lambda: line.connections == 2)
        await answer(client, job_server, ref, 2)
        replies = await posting

    assert [(reply.status, reply.document["state"]) for reply in replies] == [(200, "completed")] * 2
    assert len(job_server.submissions(ref)) == 2


async def test_what_go_sends_without_a_key_is_not_sent_again(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """It gives up instead: it cannot know whether the job was accepted."""
    require(GO)
    ref = new_ref()
    async with Line(port_of(proxy)) as line:
        url = f"http://127.0.0.1:{line.port}/queueJob"
        posting = asyncio.create_task(post_with(GO, url, held(ref), [0, 0]))
        await answer(client, job_server, ref, 1)
        await eventually(lambda: len(job_server.submissions(ref)) == 2)
        line.cut()
        line.mend()
        with pytest.raises(AssertionError, match=r"connection reset by peer|EOF"):
            await posting
        assert line.connections == 1

    await answer(client, job_server, ref, 2)
    assert len(job_server.submissions(ref)) == 2


@pytest.mark.xdist_group("gateways")  # which have such a proxy
async def test_go_loses_nothing_to_a_proxy_that_closes_what_it_keeps(
    proxies: SharedProxies, job_server: JobServer
) -> None:
    """Pauses around the proxy's idle time: with a key, a request that meets the end is retried, and submitted once."""
    require(GO)
    proxy, ref = proxies.get(KEEP_ALIVE_TIMEOUT=str(KEPT_S), MAX_JOBS="400", WORKER_MAX_JOBS="0"), new_ref()
    job: dict[str, object] = {"account": ref, "ref": ref}

    replies = await post_with(
        GO, proxy.queue_job, job, [0, *(KEPT_S * 1000 + around for around in (-20, -10, 0, 10))], f"key-{ref}"
    )

    assert [(reply.status, reply.document["state"]) for reply in replies] == [(200, "completed")] * 5
    assert len(job_server.submissions(ref)) == 5


def port_of(proxy: ProxyProcess) -> int:
    """Return the port for clients."""
    port = urlsplit(proxy.url).port
    assert port is not None
    return port


def held(ref: str) -> dict[str, object]:
    """Return a job that waits until `answer`."""
    return {"account": ref, "ref": ref, "fault": "never"}


async def answer(client: ClientSession, job_server: JobServer, ref: str, number: int) -> None:
    """Call back for the newest job, once there are this many."""
    await eventually(lambda: len(job_server.submissions(ref)) == number)
    assert (await fetch(client, "POST", job_server.callback_url(ref), data=RESULT)).status == 200
