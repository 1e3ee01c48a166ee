"""Health, problems, admin, and where each route listens."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import pytest
from aiohttp import ClientConnectionError, ClientSession

from proxy.http import problems
from shared.errors import Code
from tests.support.http import fetch, new_ref, over_tls, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

_TLS: Final = ROOT / "tests" / "support" / "tls"
#: The settings of a proxy without a listener for operators, and with one for callbacks.
_LISTENERS: Final = {"ADMIN_PORT": "", "CALLBACK_HOST": "127.0.0.2", "CALLBACK_PORT": "0"}
_PLAIN: Final = {"Accept": "application/json"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_sound_proxy_says_so(client: ClientSession, proxy: ProxyProcess, path: str) -> None:
    """Both are 200 once the proxy listens and workers can be made."""
    answer = await fetch(client, "GET", proxy.url + path)
    assert answer.status == 200
    assert answer.document["status"]


@pytest.mark.parametrize("path", ["/", "/queuejob"])
async def test_an_address_that_does_not_exist_leads_to_the_documentation(
    client: ClientSession, proxy: ProxyProcess, path: str
) -> None:
    """The root path says where the routes are listed, in words and in a header (RFC 8631)."""
    answer = await fetch(client, "GET", proxy.url + path)
    assert "/docs lists the routes" in problem(answer, "not-found", 404)["detail"]
    assert answer.headers["Link"] == '</docs>; rel="service-doc"'
    assert (await fetch(client, "GET", f"{proxy.url}/docs")).status == 200


async def test_the_admin_address_leads_to_no_page_that_it_does_not_have(
    client: ClientSession, proxy: ProxyProcess
) -> None:
    """It has its own `/docs`, for the operators' routes."""
    answer = await fetch(client, "GET", f"{proxy.admin}/nowhere")
    assert "/docs lists the routes" in problem(answer, "not-found", 404)["detail"]
    assert (await fetch(client, "GET", f"{proxy.admin}/docs", headers={"Accept": "text/html"})).status == 200


@pytest.mark.parametrize("code", Code)
async def test_each_code_is_explained(client: ClientSession, proxy: ProxyProcess, code: Code) -> None:
    """The problem's `type` leads to its explanation, with its meaning and what to do."""
    answer = await fetch(client, "GET", f"{proxy.url}/problems/{code}", headers=_PLAIN)
    assert answer.status == 200
    entry = problems.TABLE[code]
    assert answer.document["code"] == str(code)
    assert answer.document["status"] == entry.status
    assert answer.document["title"] == entry.title
    assert answer.document["meaning"] == entry.meaning
    assert answer.document["advice"] == entry.advice


async def test_workers_are_shown_with_what_they_do(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Spares and the worker that waits for a callback; process id, age and number of jobs for each."""
    proxy = proxies.get(WORKER_SPARES="2")
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))

    async def workers() -> dict[str, list[dict[str, object]]]:
        by_state: dict[str, list[dict[str, object]]] = {}
        for worker in (await fetch(client, "GET", f"{proxy.admin}/workers")).document:
            by_state.setdefault(worker["state"], []).append(worker)
        return by_state

    async def settled() -> dict[str, list[dict[str, object]]] | None:
        seen = await workers()
        return seen if len(seen.get("waiting", ())) == 1 and len(seen.get("spare", ())) == 2 else None

    seen = await eventually(settled)
    (waiting,) = seen["waiting"]
    for worker in [waiting, *seen["spare"]]:
        assert worker.keys() >= {"pid", "state", "job_id", "age_s", "jobs_done"}
        assert isinstance(worker["pid"], int)
        assert isinstance(worker["age_s"], float)
        assert worker["jobs_done"] == 0
    assert {worker["job_id"] for worker in seen["spare"]} == {None}
    await fetch(client, "POST", job_server.callback_url(ref), json={})
    assert (await answer).headers["Job-Id"] == waiting["job_id"]


@pytest.mark.parametrize("path", ["/workers", "/metrics"])
async def test_admin_routes_are_never_on_the_public_port(client: ClientSession, proxy: ProxyProcess, path: str) -> None:
    """What operators see is not public."""
    problem(await fetch(client, "GET", proxy.url + path), "not-found", 404)


async def test_jobs_cannot_be_posted_on_the_admin_port(client: ClientSession, proxy: ProxyProcess) -> None:
    """Nor callbacks."""
    for path in ("/queueJob", "/start", "/callback/x"):
        assert (await post_job(client, proxy.admin + path)).status in {404, 405}


@pytest.mark.xdist_group("listeners")
async def test_an_empty_admin_port_switches_the_admin_routes_off(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """The proxy still serves, and mentions no admin address."""
    proxy = proxies.get(**_LISTENERS)
    assert "admin" not in proxy.listening
    assert not any("Admin" in line for line in proxy.stdout)
    assert (await post_job(client, proxy.queue_job)).status == 200


@pytest.mark.xdist_group("listeners")
async def test_the_callback_route_can_have_a_listener_of_its_own(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """With CALLBACK_HOST and CALLBACK_PORT set, callbacks are accepted only there, and nothing else is."""
    proxy = proxies.get(**_LISTENERS)
    assert proxy.callback.startswith("http://127.0.0.2:")
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    url = job_server.callback_url(ref)
    assert url.startswith(f"{proxy.callback}/callback/")
    token = url.rpartition("/")[2]
    problem(await fetch(client, "POST", f"{proxy.url}/callback/{token}", json={}), "not-found", 404)
    assert not answer.done()
    for path in ("/queueJob", "/start", "/readyz", "/workers"):
        assert (await post_job(client, proxy.callback + path)).status in {404, 405}
    assert (await fetch(client, "GET", f"{proxy.callback}/healthz")).status == 200
    assert (await fetch(client, "POST", url, json={"n": 1})).document == {"status": "accepted"}
    assert (await answer).document == {"n": 1}


async def test_with_a_certificate_clients_and_callbacks_speak_tls(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """A job runs entirely over https; without TLS nobody gets in; the admin address is unchanged."""
    proxy = proxies.get(TLS_CERTFILE=str(_TLS / "cert.pem"), TLS_KEYFILE=str(_TLS / "key.pem"))
    assert proxy.url.startswith("https://")
    assert proxy.admin.startswith("http://")
    trusting = ssl.create_default_context(cafile=_TLS / "cert.pem")
    job = {"account": new_ref(), "ref": "over-tls"}
    async with over_tls(trusting) as session:
        answer = await fetch(session, "POST", proxy.queue_job, json=job)
    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert job_server.callback_url("over-tls").startswith("https://")
    assert [callback.status for callback in job_server.callbacks("over-tls")] == [200]
    with pytest.raises(ClientConnectionError):
        await fetch(client, "POST", proxy.queue_job.replace("https:", "http:"), json=job)


async def test_a_configured_callback_address_is_what_the_job_server_is_told(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """CALLBACK_URL is the prefix of the token, whatever listens there."""
    proxy = proxies.get(CALLBACK_URL="https://proxy.example/jobs/callback/", JOB_TIMEOUT="2")
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    base, _, token = job_server.callback_url(ref).rpartition("/")
    assert base == "https://proxy.example/jobs/callback"
    await fetch(client, "POST", f"{proxy.url}/callback/{token}", json={"n": 1})
    assert (await answer).document == {"n": 1}
