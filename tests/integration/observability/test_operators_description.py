"""The description of the routes for operators against a running proxy: they behave as described."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import jsonschema_rs
import pytest
from aiohttp import ClientSession

from proxy.api.description.openapi import operators_document
from proxy.run.wiring import create_app
from proxy.store.memory import MemoryStore
from proxy.workers.pool import Pool
from proxy.workers.status import PoolStatus
from shared import worker_config
from shared.job_server import loader
from shared.settings import load
from tests.support.http import Answer, fetch, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

_KEY: Final = "act-0123456789abcdef"
_SETTINGS: Final = {"ADMIN_KEYS": f"anna:act:{_KEY}", "RECORD_BODIES": "1000"}
_ACTING: Final = {"Authorization": f"Bearer {_KEY}"}
_BROWSER: Final = {"Accept": "text/html"}


class _Described:
    """Checks answers against the proxy's own description, and knows which parts of it have been seen."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._components = _strict(document["components"])
        self.seen: set[tuple[str, str, str]] = set()

    def check(self, method: str, path: str, answer: Answer) -> Answer:
        """Assert that the described `path` may give this answer, and return the answer."""
        response = self._document["paths"][path][method.lower()]["responses"][str(answer.status)]
        if "$ref" in response:
            response = self._document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        if "content" in response:
            schema = response["content"][kind]["schema"]
            if "json" in kind and "ndjson" not in kind:
                self.validate(schema, answer.document)
        else:
            assert answer.body == b""
        self.seen.add((method.lower(), path, str(answer.status)))
        return answer

    def validate(self, schema: dict[str, Any], value: object) -> None:
        """Assert that a value is exactly what a schema says."""
        jsonschema_rs.validate({"components": self._components, **_strict(schema)}, value)

    @property
    def looked_at(self) -> set[tuple[str, str, str]]:
        """Return every successful answer in the description."""
        return {
            (method, path, status)
            for path, item in self._document["paths"].items()
            for method, operation in item.items()
            if method != "parameters"
            for status in operation["responses"]
            if status.startswith("2")
        }


def _strict(part: Any) -> Any:  # noqa: ANN401 - any part of a document
    """Return the same, with undescribed members forbidden in every object."""
    if isinstance(part, list):
        return [_strict(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    found = {
        # What `allOf` names is only a part: the whole says what else there may be.
        name: inner if name in {"allOf", "Problem", "JobLine"} else _strict(inner)
        for name, inner in part.items()
    }
    closed = "additionalProperties" not in part and isinstance(part.get("properties"), dict)
    return found | {"unevaluatedProperties": False} if closed else found


def _templates(path: str, described: Iterator[str]) -> list[str]:
    return [one for one in described if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(one)), path)]


async def test_every_route_is_described_and_nothing_else() -> None:
    """The description has the paths and methods of the application; its files share one template."""
    pool = cast("Pool", SimpleNamespace(status=PoolStatus, on_hold="", size=int))
    servers = [worker_config.JobServer(url="http://127.0.0.1:9/", profile=loader.load("spreedly"))]
    app = create_app(
        load(_SETTINGS), servers, pool=pool, store=MemoryStore(1), callback_url="http://127.0.0.1/callback"
    )
    app.core.observers.loop_lag.stop()
    guard: Any = app.operators.app
    while not hasattr(guard, "_router"):
        guard = vars(guard)["_app"]
    paths = operators_document(load(_SETTINGS))["paths"]
    described = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    found = set()
    for route in vars(guard)["_router"].routes:
        path = route.path if route.path in paths else "".join(_templates(route.path, iter(paths)))
        found |= {(path, method.lower()) for method in route.methods - {"HEAD"}}
    assert found == described


async def test_every_answer_is_as_described(client: ClientSession, job_server: JobServer, tmp_path: Path) -> None:
    """Each kind of success, with exactly the described members; and refusals."""
    settings = {**_SETTINGS, "JOB_SERVER_URL": job_server.url, "JOURNAL": str(tmp_path / "j"), "WORKER_SPARES": "1"}
    with ProxyProcess.started(**settings) as proxy:
        document = (await fetch(client, "GET", f"{proxy.admin}/openapi.json", headers=_ACTING)).document
        described = _Described(document)

        async def send(method: str, path: str, *, at: str = "", status: int = 200, **options: Any) -> Answer:
            options = {"headers": _ACTING} | options
            answer = await fetch(client, method, f"{proxy.admin}{at or path}", **options)
            assert answer.status == status, (path, answer.body)
            return described.check(method, path, answer)

        posted = await post_job(client, proxy.queue_job, fault="never", headers={"Prefer": "respond-async"})
        job = posted.headers["Job-Id"]
        await post_job(client, proxy.queue_job, fault="failed")
        await post_job(client, proxy.queue_job)

        async def is_waiting() -> bool:
            found = await send("GET", "/jobs/{id}", at=f"/jobs/{job}")
            return bool(found.document["state"] == "waiting")

        await eventually(is_waiting)
        await send("POST", "/jobs/{id}/ask", at=f"/jobs/{job}/ask")
        await send("POST", "/jobs/{id}/stop", at=f"/jobs/{job}/stop")
        await send("POST", "/jobs/{id}/ask", at="/jobs/unknown/ask", status=404)
        for one in (await send("GET", "/jobs", at="/jobs?sort=slowest&limit=2")).document["jobs"]:
            await send("GET", "/jobs/{id}", at=f"/jobs/{one['job_id']}")
        await send("GET", "/jobs", headers={**_ACTING, "Accept": "application/x-ndjson"})
        await send("GET", "/jobs", at="/jobs?state=nonsense", status=400)
        await send("GET", "/jobs/patterns")
        await send("GET", "/jobs/{id}", at="/jobs/unknown", status=404)
        for path in ("/workers", "/house", "/status", "/metrics", "/audit", "/session", "/openapi.json", "/docs", "/"):
            await send("GET", path)
        await send("GET", "/audit", at="/audit?limit=1")
        await send("GET", "/problems/{code}", at="/problems/forbidden")
        await send("GET", "/{page}.html", at="/house.html")
        await send("GET", "/static/{name}", at="/static/style.css", headers={})
        await send("GET", "/static/{name}", at="/static/icon.svg", headers={})
        await send("GET", "/static/{name}", at="/static/nothing", headers={}, status=404)
        await send("GET", "/login", headers={})
        await send("GET", "/house", headers={}, status=401)
        await send("GET", "/", headers=_BROWSER, status=303)
        await send("GET", "/house", headers={**_ACTING, "Host": "evil.example"}, status=403)
        form = {"Origin": proxy.admin, "Content-Type": "application/x-www-form-urlencoded"}
        begun = await send("POST", "/login", headers=form, data="key=" + _KEY, status=303)
        cookie = begun.headers["Set-Cookie"].partition(";")[0]
        await send("GET", "/session", headers={"Cookie": cookie})
        await send("POST", "/logout", headers=form | {"Cookie": cookie}, status=303)
        await send("POST", "/login", headers=form, data="key=wrong", status=401)
        await send("POST", "/login", headers=form | {"Content-Type": "text/plain"}, data="key=wrong", status=415)
        await send("POST", "/intake/pause", json={"reason": "a test"})
        await send("POST", "/intake/pause", json={"because": "a test"}, status=400)
        await send("POST", "/intake/resume")
        await _check_events(client, proxy, described, document)
        await send("POST", "/drain", status=202)
        assert described.looked_at - described.seen == set()
        assert await asyncio.to_thread(proxy.wait, 20.0) == 0


async def _check_events(client: ClientSession, proxy: ProxyProcess, described: _Described, document: Any) -> None:  # noqa: ANN401
    answer = document["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    async with client.get(f"{proxy.admin}/events", headers=_ACTING) as response:
        count = 0
        async for line in response.content:
            if line.startswith(b"data: "):
                described.validate(answer["x-data"], json.loads(line[6:]))
                count += 1
            if count == 2:
                break
    described.seen.add(("get", "/events", "200"))


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing_that_is_not_as_described(proxies: SharedProxies, tmp_path: Path) -> None:
    """Requests generated from the description, valid and invalid, get answers that the description allows."""
    proxy = proxies.get(**_SETTINGS)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "run", f"{proxy.admin}/openapi.json",
        "--header", f"Authorization: Bearer {_KEY}", "--exclude-path", "/drain", "--exclude-path", "/events",
        "--checks", "status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,unsupported_method,not_a_server_error",
        "--max-examples", "3", "--seed", "1", "--workers", "1", "--no-color",
        "--phases", "examples,coverage", "--request-timeout", "10",
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
