"""Behind a gateway: links lead through it, and no cache keeps an answer that may change."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp import ClientSession

from tests.support.http import fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("behind a gateway")

PREFIX = {"X-Forwarded-Prefix": "/async", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "gateway.example"}


@pytest.fixture
def trusting(proxies: SharedProxies, job_server: JobServer) -> ProxyProcess:
    """A proxy that trusts this machine, and has names of its own for operators."""
    return proxies.get(TRUSTED_PROXIES="127.0.0.1", ADMIN_NAMES="ops.example, proxy")


async def test_links_begin_with_the_gateways_path(client: ClientSession, trusting: ProxyProcess) -> None:
    """`Location`, the status document, and the address that explains a problem."""
    headers = PREFIX | {"Prefer": "respond-async"}
    answer = await post_job(client, trusting.queue_job, headers=headers)
    job_id = answer.headers["Job-Id"]
    assert answer.status == 202
    assert answer.headers["Location"] == f"/async/jobs/{job_id}"
    assert answer.document["result"] == f"/async/jobs/{job_id}/result"
    status = await fetch(client, "GET", f"{trusting.url}/jobs/{job_id}", headers=PREFIX)
    assert status.document["result"] == f"/async/jobs/{job_id}/result"
    missing = await fetch(client, "GET", f"{trusting.url}/jobs/none", headers=PREFIX)
    assert missing.document["type"] == "/async/problems/not-found"
    nowhere = await fetch(client, "GET", f"{trusting.url}/nowhere", headers=PREFIX)
    assert nowhere.headers["Link"] == '</async/docs>; rel="service-doc"'
    failed = await post_job(client, trusting.queue_job, fault="reject", headers=PREFIX)
    assert failed.document["type"] == "/async/problems/job-rejected"


async def test_the_description_names_the_gateways_path(client: ClientSession, trusting: ProxyProcess) -> None:
    """A generated client would leave it out otherwise; links on the pages are relative."""
    described = await fetch(client, "GET", f"{trusting.url}/openapi.json", headers=PREFIX)
    assert described.document["servers"] == [{"url": "/async"}]
    for path in ("/docs", "/problems/not-found"):
        answer = await fetch(client, "GET", f"{trusting.url}{path}", headers=PREFIX | {"Accept": "text/html"})
        links = re.findall(r'href="([^"#]+)"', answer.body.decode())
        assert links
        assert not any(link.startswith("/") for link in links), links


async def test_from_others_the_headers_mean_nothing(client: ClientSession, proxy: ProxyProcess) -> None:
    """Nobody is trusted unless TRUSTED_PROXIES says so."""
    answer = await post_job(client, proxy.queue_job, headers=PREFIX | {"Prefer": "respond-async"})
    assert answer.headers["Location"] == f"/jobs/{answer.headers['Job-Id']}"


async def test_no_cache_keeps_an_answer_about_a_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """A result, a failure, a status, a 202, a 404 for a job that may appear soon, and the health."""
    ref = new_ref()
    pending = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    accepted = await post_job(client, proxy.queue_job, headers={"Prefer": "respond-async"})
    job = f"{proxy.url}/jobs/{accepted.headers['Job-Id']}"
    answers = [
        accepted,
        await post_job(client, proxy.queue_job),
        await post_job(client, proxy.queue_job, fault="failed"),
        await fetch(client, "GET", job),
        await fetch(client, "GET", f"{job}/result"),
        await fetch(client, "DELETE", job),
        await fetch(client, "GET", f"{proxy.url}/jobs/none"),
        await fetch(client, "POST", proxy.queue_job, data=b"no job"),
        await fetch(client, "GET", f"{proxy.url}/healthz"),
        await fetch(client, "GET", f"{proxy.url}/readyz"),
    ]
    await fetch(client, "POST", job_server.callback_url(ref), json={})
    answers.append(await pending)
    assert [answer.headers.get("Cache-Control") for answer in answers] == ["no-store"] * len(answers)


async def test_an_operators_page_works_through_a_gateway_with_tls(
    client: ClientSession, trusting: ProxyProcess
) -> None:
    """By the gateway's name, if it is allowed, and from its origin."""
    proxy = trusting
    names = {"X-Forwarded-Host": "ops.example", "X-Forwarded-Proto": "https"}
    assert (await fetch(client, "GET", f"{proxy.admin}/workers", headers=names)).status == 200
    assert (await fetch(client, "GET", f"{proxy.admin}/workers", headers={"Host": "proxy:3001"})).status == 200
    problem(await fetch(client, "GET", f"{proxy.admin}/workers", headers={"Host": "intranet"}), "forbidden", 403)
    button = names | {"X-Requested-By": "dashboard", "Origin": "https://ops.example"}
    problem(await fetch(client, "POST", f"{proxy.admin}/jobs/none/stop", headers=button), "not-found", 404)
    problem(
        await fetch(client, "POST", f"{proxy.admin}/jobs/none/stop", headers=button | {"Origin": "http://ops.example"}),
        "forbidden",
        403,
    )
