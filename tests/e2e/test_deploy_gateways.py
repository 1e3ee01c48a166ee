"""deploy/nginx.conf and deploy/haproxy.cfg in front of a real proxy, with the real programs, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession
from yarl import URL

from shared.settings import load
from tests.support.gateways import FILES, Gateway, Times, accepts, running
from tests.support.http import fetch, new_ref, over_tls, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: The members of every answer of a gateway's own, so that no client retries because of it.
_MEMBERS: Final = {"type", "title", "status", "detail", "code", "job_id", "submitted", "retry_safe"}

pytestmark = pytest.mark.xdist_group("deploy gateways")


@pytest.fixture(scope="session")
def gateway_port() -> Iterator[int]:
    """A port that nobody else gets: bound all the time, and listened on by the gateway."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@pytest.fixture
def settings() -> dict[str, str]:
    """The proxy's other settings; a test may replace them."""
    return {}


@pytest.fixture
def behind(proxies: SharedProxies, job_server: JobServer, gateway_port: int, settings: dict[str, str]) -> ProxyProcess:
    """A proxy that lets the job server call back through the gateway, and trusts it."""
    ours = {"CALLBACK_URL": f"https://127.0.0.1:{gateway_port}/callback", "TRUSTED_PROXIES": "127.0.0.1"}
    return proxies.get(**ours, **settings)


@pytest.fixture
def times() -> Times:
    """The gateway's timeouts, as in the file; a test may replace them."""
    return Times()


@pytest.fixture(params=["nginx", "haproxy"])
def gateway(
    request: pytest.FixtureRequest, behind: ProxyProcess, gateway_port: int, times: Times, tmp_path: Path
) -> Iterator[Gateway]:
    """One of the gateways, started and listening."""
    with running(request.param, gateway_port, behind.url, tmp_path, times) as gateway:
        yield gateway


@pytest.fixture
async def outside(gateway: Gateway) -> AsyncIterator[ClientSession]:
    """A client that trusts the gateway's certificate."""
    async with over_tls(ssl.create_default_context(cafile=str(gateway.certificate))) as session:
        yield session


async def called_back(outside: ClientSession, job_server: JobServer, ref: str) -> str:
    """Call back for a job in flight like the job server; return the called address."""
    url = await eventually(lambda: job_server.submissions(ref) and job_server.callback_url(ref))
    answer = await fetch(outside, "POST", url, json={"state": "completed", "ref": ref})
    assert (answer.status, answer.document) == (200, {"status": "accepted"})
    return str(url)


def unanswered(status: int, headers: object, body: bytes, *, code: str) -> None:
    """Check that an answer is a gateway's own problem document, which knows nothing about any job."""
    document = json.loads(body)
    assert document.keys() == _MEMBERS
    assert (document["status"], document["code"]) == (status, code)
    assert (document["submitted"], document["retry_safe"], document["job_id"]) == ("unknown", False, None)
    assert headers["Content-Type"] == "application/problem+json"  # type: ignore[index] # some mapping
    assert headers["Cache-Control"] == "no-store"  # type: ignore[index] # as above


# --- what passes -----------------------------------------------------------------------------------------------------


async def test_a_job_and_its_callback_pass(gateway: Gateway, outside: ClientSession, job_server: JobServer) -> None:
    """The job arrives over TLS, and so does its callback, at the proxy's address; the answer is the callback's body."""
    ref = new_ref()
    job = post_job(outside, f"{gateway.url}/queueJob", ref=ref, fault="never")
    answer, url = await asyncio.gather(job, called_back(outside, job_server, ref))
    assert url.startswith(f"{gateway.url}/callback/")
    assert (answer.status, answer.document) == (200, {"state": "completed", "ref": ref})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["Job-Id"])


async def test_a_job_for_a_profile_passes(gateway: Gateway, outside: ClientSession, job_server: JobServer) -> None:
    """With a path, which this profile does not take, the answer is the proxy's: it knows what became of the job."""
    ref = new_ref()
    answer = await post_job(outside, f"{gateway.url}/queueJob/spreedly", ref=ref)
    assert answer.status == 200
    assert len(job_server.submissions(ref)) == 1
    answer = await post_job(outside, f"{gateway.url}/queueJob/spreedly/a/path")
    problem(answer, "not-found", 404, submitted="no")


async def test_a_message_of_the_queue_can_be_asked_for(gateway: Gateway, outside: ClientSession) -> None:
    """`GET /jobs` reaches the proxy, with its parameter; this one has no queue."""
    answer = await fetch(outside, "GET", f"{gateway.url}/jobs?message=4711")
    assert "this message" in problem(answer, "not-found", 404)["detail"]
    await eventually(lambda: "/jobs 404" in gateway.log)


async def test_the_certificate_is_renewed_while_jobs_are_in_flight(
    gateway: Gateway, outside: ClientSession, job_server: JobServer
) -> None:
    """They get their results, and new connections get the new certificate."""

    def presented() -> str:
        return ssl.get_server_certificate(("127.0.0.1", int(gateway.url.rpartition(":")[2])))

    before, refs = await asyncio.to_thread(presented), [new_ref() for _ in range(5)]
    jobs = [asyncio.create_task(post_job(outside, f"{gateway.url}/queueJob", ref=ref, duration=3)) for ref in refs]
    await eventually(lambda: all(job_server.submissions(ref) for ref in refs))

    gateway.renew()

    renewed = ssl.PEM_cert_to_DER_cert(gateway.certificate.read_text("ascii"))

    async def is_presented() -> bool:
        with contextlib.suppress(OSError):
            return ssl.PEM_cert_to_DER_cert(await asyncio.to_thread(presented)) == renewed
        return False

    await eventually(is_presented)
    assert renewed != ssl.PEM_cert_to_DER_cert(before)
    assert [(await job).status for job in jobs] == [200] * 5


async def test_the_log_names_the_job_and_no_token(
    gateway: Gateway, outside: ClientSession, job_server: JobServer
) -> None:
    """A token is enough to answer for the job server."""
    ref = new_ref()
    job = post_job(outside, f"{gateway.url}/queueJob", ref=ref, fault="never")
    answer, url = await asyncio.gather(job, called_back(outside, job_server, ref))
    await eventually(lambda: f"job={answer.headers['Job-Id']}" in gateway.log and "/callback/... 200" in gateway.log)
    token = url.rpartition("/")[2]
    for path in (token, f"callback{token}", f"{token}/x", f"nothing/{token}"):
        await fetch(outside, "GET", f"{gateway.url}/{path}")
    await eventually(lambda: gateway.log.count("/... 404") >= 4)
    assert token not in gateway.log


async def test_large_bodies_pass(gateway: Gateway, outside: ClientSession, job_server: JobServer) -> None:
    """A job and a result of almost MAX_BODY_BYTES pass, in nginx without a file; a larger job gets the proxy's 413."""
    ref = new_ref()
    text = "x" * 1_000_000
    job = post_job(outside, f"{gateway.url}/start", ref=ref, fault="never", padding=text)
    url_of = eventually(lambda: job_server.submissions(ref) and job_server.callback_url(ref))

    async def call_back() -> None:
        answer = await fetch(outside, "POST", await url_of, json={"state": "completed", "text": text})
        assert answer.status == 200

    answer, _ = await asyncio.gather(job, call_back())
    assert answer.status == 200
    assert answer.document["text"] == text
    assert "buffered to a temporary file" not in gateway.log
    too_large = io.BytesIO(b"x" * 1_100_000)
    headers = {"Content-Type": "application/json"}
    answer = await fetch(outside, "POST", f"{gateway.url}/queueJob", data=too_large, headers=headers)
    problem(answer, "payload-too-large", 413)


async def test_what_explains_the_answers_is_reachable(gateway: Gateway, outside: ClientSession) -> None:
    """A client can follow `type`."""
    answer = await fetch(outside, "GET", f"{gateway.url}/problems/deadline-exceeded")
    assert (answer.status, answer.document["code"]) == (200, "deadline-exceeded")
    assert (await fetch(outside, "GET", f"{gateway.url}/healthz")).status == 200
    assert (await fetch(outside, "GET", f"{gateway.url}/openapi.json")).document["servers"] == [{"url": "/"}]


async def test_a_clients_word_for_a_gateways_is_not_passed_on(gateway: Gateway, outside: ClientSession) -> None:
    """A client's header about a path before the proxy's reaches nobody."""
    headers = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil.example"}
    answer = await fetch(outside, "GET", f"{gateway.url}/jobs/none", headers=headers)
    assert answer.document["type"] == "/problems/not-found"


async def test_a_token_that_is_none_is_refused_by_the_proxy(gateway: Gateway, outside: ClientSession) -> None:
    """The callback route is reachable from outside, and the token protects it."""
    problem(await fetch(outside, "POST", f"{gateway.url}/callback/{'A' * 43}", json={}), "not-found", 404)


async def test_the_admin_routes_are_not_reachable(
    gateway: Gateway, outside: ClientSession, behind: ProxyProcess
) -> None:
    """The gateway does not serve what the admin address serves."""
    assert (await fetch(outside, "GET", f"{behind.admin}/workers")).status == 200
    for path in ("/workers", "/metrics", "/", "/events", "/../workers", "/callback/../workers", "//workers", "/readyz"):
        async with outside.get(URL(gateway.url + path, encoded=True)) as response:
            assert response.status in {400, 404}, path
            assert b"spare" not in await response.read()


# --- the gateway's own answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [Times(answer="1s")])
async def test_a_job_that_outlasts_the_gateway_goes_on(
    gateway: Gateway, outside: ClientSession, job_server: JobServer
) -> None:
    """The answer is 504 and says that the outcome is unknown; the job runs to its end, and its callback is accepted."""
    ref = new_ref()
    answer = await post_job(outside, f"{gateway.url}/queueJob", ref=ref, fault="never")
    assert answer.status == 504
    unanswered(504, answer.headers, answer.body, code="gateway-timeout")
    await called_back(outside, job_server, ref)
    assert len(job_server.submissions(ref)) == 1


async def test_a_proxy_that_is_gone_is_an_answer_too(
    gateway: Gateway, outside: ClientSession, behind: ProxyProcess
) -> None:
    """While the proxy is replaced, clients get JSON and the advice not to retry blindly."""
    behind.kill()
    answer = await post_job(outside, f"{gateway.url}/queueJob")
    assert answer.status in {503, 504}
    unanswered(answer.status, answer.headers, answer.body, code="gateway-timeout")


async def test_what_is_not_served_is_a_problem_document(gateway: Gateway, outside: ClientSession) -> None:
    """The gateway's, with the proxy's code."""
    answer = await fetch(outside, "POST", f"{gateway.url}/nothing/here", json={})
    assert answer.status == 404
    unanswered(404, answer.headers, answer.body, code="not-found")


@pytest.mark.parametrize("gateway", ["nginx"], indirect=True)
async def test_what_is_much_too_large_is_a_problem_document(gateway: Gateway, outside: ClientSession) -> None:
    """Refused by nginx, before it reaches the proxy."""
    data = io.BytesIO(b"x" * 3_000_000)
    answer = await fetch(outside, "POST", f"{gateway.url}/queueJob", data=data)
    unanswered(answer.status, answer.headers, answer.body, code="payload-too-large")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: LARGE\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 150 + b"\r\n",
        b"GET /healthz?LARGE HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["a large header", "many headers", "a long path"],
)
async def test_headers_that_are_too_large_are_a_problem_document(gateway: Gateway, head: bytes) -> None:
    """Whoever refuses them: nginx takes 8 kB for one header; HAProxy leaves it to the proxy, which takes 16 kB in all.

    A request within one TLS record is read completely, so that no reset of the connection overtakes the answer.
    """
    large = b"x" * (9_000 if gateway.name == "nginx" else 40_000)
    status, headers, body = await asyncio.to_thread(sent, gateway, head.replace(b"LARGE", large))
    assert (status, json.loads(body)["code"]) == (431, "headers-too-large")
    assert headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("gateway", ["nginx"], indirect=True)
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a b/c\r\n\r\n",
        b"GET / /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"TRACE /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"noise\r\n\r\n",
    ],
    ids=["a bad host", "a bad request line", "no host", "a method of nobody's", "noise"],
)
async def test_what_cannot_be_read_is_a_problem_document(gateway: Gateway, request_bytes: bytes) -> None:
    """HAProxy cannot be configured for it: its page for what is not HTTP is fixed."""
    status, headers, body = await asyncio.to_thread(sent, gateway, request_bytes)
    assert status == 400
    unanswered(status, headers, body, code="malformed-request")


def sent(gateway: Gateway, request_bytes: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send bytes over TLS and return the answer."""
    url = URL(gateway.url)
    context = ssl.create_default_context(cafile=str(gateway.certificate))
    with (
        socket.create_connection((url.host or "", url.port or 0), 10) as plain,
        context.wrap_socket(plain, server_hostname=url.host) as connection,
    ):
        connection.sendall(request_bytes)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers, response.read()


# --- a proxy that is about to end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway", ["haproxy"], indirect=True)
@pytest.mark.parametrize("settings", [{"DRAIN_DELAY": "600"}])
async def test_a_proxy_that_is_about_to_end_gets_no_new_jobs_and_all_callbacks(
    gateway: Gateway, outside: ClientSession, behind: ProxyProcess, job_server: JobServer
) -> None:
    """The readiness check notices; the job in flight is called back and answered, and can still be asked for."""
    ref = new_ref()
    job = asyncio.create_task(post_job(outside, f"{gateway.url}/queueJob", ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    behind.signal(15)

    async def refused() -> bool:
        answer = await post_job(outside, f"{gateway.url}/queueJob")
        return bool(answer.status == 503 and answer.document["title"] == "No proxy is ready")

    await eventually(refused)
    await called_back(outside, job_server, ref)
    assert (await job).status == 200
    assert (await fetch(outside, "GET", f"{gateway.url}/jobs/{(await job).headers['Job-Id']}")).status == 200


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_gateways_wait_longer_than_the_proxy() -> None:
    """The timeouts in the files are above JOB_TIMEOUT's default plus the second that the answer may take."""
    settings = load({})
    nginx, haproxy = (path.read_text(encoding="utf-8") for path in FILES.values())
    (answer_s,) = re.findall(r"^    proxy_read_timeout +(\d+)s;", nginx, re.MULTILINE)
    assert int(answer_s) > settings.job_timeout + 1
    for name in ("server", "client"):
        (answer_s,) = re.findall(rf"^    timeout {name} +(\d+)s$", haproxy, re.MULTILINE)
        assert int(answer_s) > settings.job_timeout + 1


def test_the_gateways_keep_connections_for_a_shorter_time_than_the_proxy() -> None:
    """The side that sends must be the one that closes first."""
    settings = load({})
    (idle_s,) = re.findall(r"^    keepalive_timeout +(\d+)s;", FILES["nginx"].read_text(encoding="utf-8"), re.MULTILINE)
    assert int(idle_s) < settings.keep_alive_timeout


def test_nobody_listens_where_nobody_was_started(gateway_port: int) -> None:
    """A reserved port is not a listening one."""
    assert not accepts(gateway_port)
