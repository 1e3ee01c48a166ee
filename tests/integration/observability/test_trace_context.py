"""A client's trace context: it reaches the job server, and comes back with the answer."""

from __future__ import annotations

from typing import Final

import pytest
from aiohttp import ClientSession, web
from pytest_aiohttp import AiohttpServer

from tests.support.http import new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

_CLIENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_it_reaches_the_job_server_and_the_answer(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Without tracing of our own, it is passed on and returned unchanged, also with a failure."""
    for fault in ({}, {"fault": "failed"}):
        ref = new_ref()
        headers = {"traceparent": _CLIENT, "tracestate": "vendor=1"}
        answer = await post_job(client, proxy.queue_job, headers=headers, ref=ref, **fault)
        assert answer.headers["traceparent"] == answer.headers["traceresponse"] == _CLIENT
        sent = {name.lower(): value for name, value in dict(job_server.submission(ref).headers).items()}
        assert (sent["traceparent"], sent["tracestate"]) == (_CLIENT, "vendor=1")


@pytest.mark.parametrize(
    "wrong", ["", "00-abc-def-01", f"ff{_CLIENT[2:]}", f"00-{'0' * 32}-b7ad6b7169203331-01", f"{_CLIENT} "]
)
async def test_what_is_no_trace_context_is_dropped(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, wrong: str
) -> None:
    """It does no harm and is not passed on; spaces around it are not part of a header."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, headers={"traceparent": wrong}, ref=ref)
    assert answer.status == 200
    assert answer.headers.get("traceparent", "") in {"", wrong.strip() if wrong.strip() == _CLIENT else ""}


async def test_spans_are_sent_to_a_collector(
    client: ClientSession, job_server: JobServer, aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OTEL_EXPORTER_OTLP_ENDPOINT set, a job's spans arrive there, and the job server's parent is our span."""
    bodies: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    collector = web.Application()
    collector.router.add_post("/v1/traces", collect)
    server = await aiohttp_server(collector)
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": str(server.make_url("/")),
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with ProxyProcess.started(JOB_SERVER_URL=job_server.url, WORKER_SPARES="1", **settings) as proxy:
        ref = new_ref()
        answer = await post_job(client, proxy.queue_job, headers={"traceparent": _CLIENT}, ref=ref)
        ours = answer.headers["traceresponse"]
        assert ours != _CLIENT
        assert ours.split("-")[1] == _CLIENT.split("-")[1]
        await eventually(lambda: bodies)
        collected = b"".join(bodies)
        for name in (
            b"async-job-proxy",
            b"queue",
            b"submission",
            b"wait",
            b"delivery",
            bytes.fromhex(ours.split("-")[2]),
        ):
            assert name in collected
