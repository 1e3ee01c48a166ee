"""deploy/syslog-ng.conf and deploy/rotel.env: what real collectors make of the proxy's log and traces."""

from __future__ import annotations

import datetime as dt
import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession, web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pytest_aiohttp import AiohttpServer

from cluster.processes import with_us
from tests.support.http import post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.waiting import eventually

_CLIENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_CONFIGURATION: Final = (ROOT / "deploy" / "syslog-ng.conf").read_text(encoding="utf-8")
_LOG: Final = "/var/log/async-job-proxy.log"
_LOKI: Final = "http://127.0.0.1:3100"


class _WithLogFile(ProxyProcess):
    """A proxy whose stderr also goes to the file LOG_FILE."""

    PROGRAM = ("bash", "-c", 'exec "$@" 2> >(exec tee -a "$LOG_FILE" >&2)', "bash", *ProxyProcess.PROGRAM)


@dataclass
class _Loki:
    """A stand-in for Loki's push API, as documented: it accepts nothing that the real one would refuse."""

    #: The received lines, in order: labels, nanoseconds, line, structured metadata.
    entries: list[tuple[dict[str, str], int, str, dict[str, str]]] = field(default_factory=list)
    #: Whether it is unavailable, and how often somebody has noticed.
    is_down: bool = False
    refused: int = 0

    async def push(self, request: web.Request) -> web.Response:
        """Accept lines."""
        if self.is_down:
            self.refused += 1
            return web.Response(status=503)
        assert request.content_type == "application/json"
        document = await request.json()
        assert document.keys() == {"streams"}
        for stream in document["streams"]:
            assert stream.keys() == {"stream", "values"}
            for at, line, *rest in stream["values"]:
                (metadata,) = rest
                assert all(isinstance(it, str) for it in [at, line, *stream["stream"].values(), *metadata.values()])
                self.entries.append((stream["stream"], int(at), line, metadata))
        return web.Response(status=204)

    def of(self, job_id: str, event: str) -> list[tuple[dict[str, str], int, str, dict[str, str]]]:
        """Return the received lines with one kind of event of a job."""
        return [
            entry
            for entry in self.entries
            if entry[3].get("job_id") == job_id and json.loads(entry[2])["event"] == event
        ]


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(with_us(command), env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
async def loki(aiohttp_server: AiohttpServer) -> tuple[_Loki, str]:
    """The stand-in and its address."""
    loki = _Loki()
    app = web.Application()
    app.router.add_post("/loki/api/v1/push", loki.push)
    server = await aiohttp_server(app)
    return loki, str(server.make_url("")).rstrip("/")


@pytest.mark.skipif(shutil.which("syslog-ng") is None, reason="syslog-ng is missing (Debian: syslog-ng-mod-http)")
async def test_the_log_arrives_at_loki_with_the_labels_that_the_page_names(
    client: ClientSession, job_server: JobServer, loki: tuple[_Loki, str], tmp_path: Path
) -> None:
    """Each line unchanged, at its own time; a job's names are not labels; an outage of Loki loses nothing."""
    stand_in, address = loki
    log = tmp_path / "proxy.log"
    log.touch()
    assert _CONFIGURATION.count(_LOG) == _CONFIGURATION.count(_LOKI) == 1
    configuration = tmp_path / "syslog-ng.conf"
    configuration.write_text(
        _CONFIGURATION.replace(_LOG, str(log)).replace(_LOKI, address).replace("time-reopen(5)", "time-reopen(1)")
    )
    places = [f"--{what}={tmp_path / what}" for what in ("persist-file", "control", "pidfile")]
    command = ["syslog-ng", "--foreground", "--no-caps", "--stderr", f"--cfgfile={configuration}", *places]
    settings = {"JOB_SERVER_URL": job_server.url, "LOG_FILE": str(log), "WORKER_SPARES": "1"}
    with _running(command, {}), _WithLogFile.started(**settings) as proxy:
        account = 'quoted " and \\ and ü and ☃'
        good = await post_job(client, proxy.queue_job, account=account)
        good_id = good.headers["Job-Id"]
        await eventually(lambda: stand_in.of(good_id, "job succeeded"))

        stand_in.is_down = True
        bad = await post_job(client, proxy.queue_job, fault="failed")
        bad_id = bad.headers["Job-Id"]
        await eventually(lambda: stand_in.refused)
        stand_in.is_down = False
        await eventually(lambda: stand_in.of(bad_id, "job failed"))

    ((labels, at, line, metadata),) = stand_in.of(good_id, "job succeeded")
    assert labels == {"service_name": "async-job-proxy", "host": socket.gethostname(), "level": "info"}
    assert metadata == {"job_id": good_id, "outcome": "succeeded", "submitted": "yes"}
    assert line in log.read_text().splitlines()
    said = json.loads(line)
    assert said["labels"] == {"account": account}
    assert at // 1000 == _microseconds(said["timestamp"])
    ((labels, _, _, metadata),) = stand_in.of(bad_id, "job failed")
    assert labels["level"] == "warning"
    assert metadata == {"job_id": bad_id, "outcome": "job-failed", "submitted": "yes"}
    assert {tuple(sorted(labels)) for labels, *_ in stand_in.entries} == {tuple(sorted(_named("label")))}
    assert set(metadata) == _named("structured metadata")
    assert {json.loads(line)["event"] for _, _, line, _ in stand_in.entries} >= {"listening"}


def _named(kind: str) -> set[str]:
    """Return what docs/observability.md calls a label, or structured metadata."""
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^\| `(\w+)` \| {kind} \|", page, re.MULTILINE))


def _microseconds(timestamp: str) -> int:
    since = dt.datetime.fromisoformat(timestamp) - dt.datetime.fromtimestamp(0, dt.UTC)
    return since // dt.timedelta(microseconds=1)


def _rotel() -> str:
    """Return the collector's program from its package; empty if there is no package for this machine."""
    spec = importlib.util.find_spec("rotel")
    return str(Path(spec.origin).with_name("rotel-agent")) if spec is not None and spec.origin else ""


@pytest.mark.skipif(not _rotel(), reason="there is no rotel for this Python and machine")
async def test_a_jobs_spans_pass_the_collector(
    client: ClientSession, job_server: JobServer, aiohttp_server: AiohttpServer
) -> None:
    """All of them, in the client's trace, with the attributes that the page names."""
    spans: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        document = ExportTraceServiceRequest.FromString(body)
        spans.extend(
            (resource.resource, span)
            for resource in document.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        return web.Response()

    keeper = web.Application()
    keeper.router.add_post("/v1/traces", take)
    kept_at = str((await aiohttp_server(keeper)).make_url("")).rstrip("/")
    http, grpc = _free_port(), _free_port()
    lines = (ROOT / "deploy" / "rotel.env").read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert settings["ROTEL_OTLP_HTTP_ENDPOINT"] == "127.0.0.1:4318"
    settings |= {
        "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{http}",
        "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{grpc}",
        "ROTEL_OTLP_EXPORTER_ENDPOINT": kept_at,
        # It is linked with Python's library, which lies beside a Python that is not the system's.
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    with _running([_rotel(), "start"], settings):
        await eventually(lambda: _listens(http))
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{http}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with ProxyProcess.started(JOB_SERVER_URL=job_server.url, WORKER_SPARES="1", **endpoint) as proxy:
            answer = await post_job(client, proxy.queue_job, headers={"traceparent": _CLIENT})
            await eventually(lambda: len(spans) >= 6)

    found = {span.name: span for _, span in spans}
    assert set(found) == {"job", "queue", "start", "submission", "wait", "delivery"}
    job = found.pop("job")
    assert {span.trace_id.hex() for _, span in spans} == {_CLIENT.split("-")[1]}
    assert job.parent_span_id.hex() == _CLIENT.split("-")[2]
    assert {span.parent_span_id for span in found.values()} == {job.span_id}
    attributes = {it.key: it.value.string_value or it.value.int_value for it in job.attributes}
    assert attributes.pop("worker.pid") > 0
    assert attributes == {"job.id": answer.headers["Job-Id"], "job.outcome": "succeeded", "job.submitted": "yes"}
    resource, _ = spans[0]
    assert ("service.name", "async-job-proxy") in {(it.key, it.value.string_value) for it in resource.attributes}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
