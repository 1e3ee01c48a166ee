"""The description of the routes against a running proxy: they behave as described."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import ClientSession

from proxy.api.description.openapi import document
from proxy.run.wiring import create_app
from proxy.store.memory import MemoryStore
from proxy.workers.pool import Pool
from proxy.workers.status import PoolStatus
from shared import worker_config
from shared.errors import Code
from shared.job_server import loader
from shared.settings import Settings, load
from tests.support.http import fetch
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies

#: What is checked of each answer. By contract a failed job answers 500, and valid data can be a job that fails.
_CHECKS = (
    "status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)
#: One thread: Hypothesis parses source code, and `ast` in CPython 3.11 counts the depth of all threads together. As
#: Hypothesis also has a callback of the collector, two threads get `SystemError: … recursion depth mismatch`.
_WORKERS = "1"


def _routes(guard: object) -> set[tuple[str, str]]:
    router = vars(guard)["_app"]
    return {
        (route.path.replace(":path", ""), method)
        for route in router.routes
        for method in (route.methods or set()) - {"HEAD"}
    }


async def test_every_route_is_described_and_nothing_else() -> None:
    """The description has the paths and methods of the application, with and without a callback listener."""
    for environ in ({}, {"CALLBACK_PORT": "0"}):
        settings = load(environ)
        job_servers = [worker_config.JobServer(url="http://127.0.0.1:9/", profile=loader.load("spreedly"))]
        pool = cast("Pool", SimpleNamespace(status=PoolStatus, on_hold="", size=int))
        app = create_app(
            settings, job_servers, pool=pool, store=MemoryStore(1), callback_url="http://127.0.0.1/callback"
        )
        app.core.observers.loop_lag.stop()
        described = _described(settings)
        assert _routes(app.public) == described


def _described(settings: Settings) -> set[tuple[str, str]]:
    paths = document(settings)["paths"]
    return {(path, name.upper()) for path, item in paths.items() for name in item if name != "parameters"}


async def test_the_page_and_the_description_are_served(client: ClientSession, proxy: ProxyProcess) -> None:
    """/openapi.json is JSON; /docs is a page that may load and run nothing."""
    description = await fetch(client, "GET", f"{proxy.url}/openapi.json")
    assert description.document["openapi"] == "3.1.0"
    page = await fetch(client, "GET", f"{proxy.url}/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert b"<h1>Async job proxy</h1>" in page.body


async def test_every_code_is_explained_to_people_and_programs(client: ClientSession, proxy: ProxyProcess) -> None:
    """/problems/<code> is a page for a browser, JSON for other clients, and 404 if there is no such code."""
    for code in Code:
        url = f"{proxy.url}/problems/{code}"
        assert (await fetch(client, "GET", url)).document["code"] == code
        page = await fetch(client, "GET", url, headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Vary"] == "accept"
        assert str(code).encode() in page.body
    unknown = await fetch(client, "GET", f"{proxy.url}/problems/<script>", headers={"Accept": "text/html"})
    assert unknown.status == 404
    assert b"<script>" not in unknown.body


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_that_is_not_as_described(
    proxies: SharedProxies, job_server: JobServer, tmp_path: Path
) -> None:
    """Requests generated from the description, valid and invalid, get answers that the description allows."""
    proxy = proxies.get(JOB_TIMEOUT="2", SUBMIT_RETRIES="0")
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "run", f"{proxy.url}/openapi.json",
        "--checks", _CHECKS, "--max-examples", "5", "--seed", "1", "--workers", _WORKERS, "--no-color",
        "--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "5",
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
