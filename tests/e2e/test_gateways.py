"""Third-party gateways, with the configurations of deploy/, keep their connections and lose no request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from tests.support.gateways import Times, running
from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.real_clients import CLIENTS, post_with
from tests.support.shared_proxies import SharedProxies

#: The idle times of the files, shortened: how long the gateway, and how long the proxy, keeps a connection.
GATEWAY_IDLE_S = 1
PROXY_IDLE_S = 2
#: Pauses at, just before and just after both.
PAUSES_S = [around + n / 50 for around in (GATEWAY_IDLE_S, PROXY_IDLE_S) for n in range(-2, 3)]

pytestmark = pytest.mark.xdist_group("gateways")


@pytest.fixture
async def job_server(aiohttp_server: AiohttpServer, job_server_port: int) -> JobServer:
    """A job server that repeats a callback: its kept connections to the proxy may be closed as idle, too."""
    options = Options(duration_s=0, callback_retries=3)
    return JobServer(await aiohttp_server(create_app(options), port=job_server_port))


@pytest.fixture(scope="session", params=["nginx", "haproxy"])
def running_gateway(
    request: pytest.FixtureRequest, proxies: SharedProxies, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a gateway in front of a proxy that keeps connections longer."""
    kept = proxies.get(KEEP_ALIVE_TIMEOUT=str(PROXY_IDLE_S), MAX_JOBS="400", WORKER_MAX_JOBS="0")
    with socket.socket() as reservation:  # bound all the time, and listened on by the gateway
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port, folder, times = (
            reservation.getsockname()[1],
            tmp_path_factory.mktemp("gateway"),
            Times(idle=f"{GATEWAY_IDLE_S}s"),
        )
        with running(request.param, port, kept.url, folder, times, tls=False) as gateway:
            yield gateway.url


@pytest.fixture
def gateway(running_gateway: str, job_server: JobServer) -> str:
    """The address of a gateway; the proxy behind it has a fresh job server."""
    return running_gateway


async def test_no_request_meets_a_connection_that_is_being_closed(gateway: str) -> None:
    """Five hundred requests with pauses around every idle time."""
    connector = TCPConnector(limit=0, keepalive_timeout=60)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=40)) as session:

        async def client(number: int) -> list[Answer]:
            answers = []
            for n in range(10):
                await asyncio.sleep(PAUSES_S[(number + n) % len(PAUSES_S)])
                answers.append(await post_job(session, f"{gateway}/queueJob", ref=new_ref()))
            return answers

        answers = await asyncio.gather(*(client(number) for number in range(50)))

    assert [answer for each in answers for answer in each if answer.status != 200] == []


async def test_what_a_gateway_refuses_by_itself_is_a_problem_document(client: ClientSession, gateway: str) -> None:
    """A route that does not exist never reaches the proxy."""
    problem(await fetch(client, "GET", f"{gateway}/nothing"), "not-found", 404, "unknown")


@pytest.mark.parametrize("name", CLIENTS)
async def test_clients_as_they_come_pass_a_gateway(name: str, gateway: str, job_server: JobServer) -> None:
    """With pauses around the gateway's idle time."""
    ref = new_ref()

    replies = await post_with(name, f"{gateway}/queueJob", {"account": ref, "ref": ref}, [0, 950, 1000, 1050])

    assert [reply.status for reply in replies] == [200] * 4, replies
    assert len(job_server.submissions(ref)) == 4
