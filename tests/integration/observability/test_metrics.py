"""The metrics page of a running proxy: it says what happened."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import fetch, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

#: On one proxy, which no other test uses: everything counted there was done here.
pytestmark = pytest.mark.xdist_group("metrics")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def proxy(proxies: SharedProxies, job_server: JobServer) -> ProxyProcess:
    """A proxy for these tests alone; its workers do not exit by themselves, so each exit is a stop."""
    return proxies.get(WORKER_SPARES="3", WORKER_MAX_JOBS="0")


async def _scrape(client: ClientSession, proxy: ProxyProcess) -> str:
    answer = await fetch(client, "GET", f"{proxy.admin}/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def _samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def _read(client: ClientSession, proxy: ProxyProcess) -> Samples:
    return _samples(await _scrape(client, proxy))


def _grown(after: Samples, before: Samples, name: str, **labels: str) -> float:
    key = (f"async_job_proxy_{name}", tuple(sorted(labels.items())))
    return after[key] - before.get(key, 0)


async def test_a_success_is_counted_with_all_its_phases(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """One job: one success, one duration for each phase, one callback, one more worker or one more reuse."""
    before = await _read(client, proxy)
    assert (await post_job(client, proxy.queue_job)).status == 200
    after = await _read(client, proxy)
    assert _grown(after, before, "jobs_total", profile="spreedly", outcome="succeeded", submitted="yes") == 1
    assert _grown(after, before, "job_server_calls_total", profile="spreedly", call="submit", outcome="accepted") == 1
    assert _grown(after, before, "jobs_accepted_total") == 1
    assert _grown(after, before, "callbacks_total", kind="accepted") == 1
    assert _grown(after, before, "job_duration_seconds_count") == 1
    for phase in ("queue", "start", "submission", "job", "delivery"):
        assert _grown(after, before, "job_phase_seconds_count", phase=phase) == 1, phase


async def test_a_failure_is_counted_by_its_code(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """A rejected job counts as job-rejected with `submitted` no, and has no job phase; its worker is stopped."""
    before = await _read(client, proxy)
    assert (await post_job(client, proxy.queue_job, fault="refuse")).status == 500
    after = await _read(client, proxy)
    assert _grown(after, before, "jobs_total", profile="spreedly", outcome="job-rejected", submitted="no") == 1
    assert _grown(after, before, "job_server_calls_total", profile="spreedly", call="submit", outcome="refused") == 4
    assert _grown(after, before, "job_phase_seconds_count", phase="job") == 0

    async def stopped() -> bool:
        return _grown(await _read(client, proxy), before, "worker_stops_total") == 1

    await eventually(stopped)


async def test_the_counters_add_up(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """Every accepted job has ended or is in flight; none is missing."""
    for fault in ("failed", "duplicate", "garbage"):
        await post_job(client, proxy.queue_job, fault=fault)
    samples = await _read(client, proxy)
    ended = sum(value for (name, _), value in samples.items() if name == "async_job_proxy_jobs_total")
    flying = sum(value for (name, _), value in samples.items() if name == "async_job_proxy_jobs_in_flight")
    assert samples["async_job_proxy_jobs_accepted_total", ()] == ended + flying


async def test_refusals_are_counted_by_code(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """An invalid job request and a forged callback are counted; neither makes a job."""
    before = await _read(client, proxy)
    await fetch(client, "POST", proxy.queue_job, data=b"[]", headers={"Content-Type": "application/json"})
    await fetch(client, "POST", f"{proxy.callback}/callback/forged", json={})
    after = await _read(client, proxy)
    assert _grown(after, before, "request_errors_total", code="invalid-request") == 1
    assert _grown(after, before, "callbacks_total", kind="unknown") == 1
    assert _grown(after, before, "jobs_accepted_total") == 0


async def test_the_page_is_on_the_admin_address_only(client: ClientSession, proxy: ProxyProcess) -> None:
    """Clients cannot read the metrics."""
    assert (await fetch(client, "GET", f"{proxy.url}/metrics")).status == 404


async def test_the_page_is_clean(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """Every name has the prefix, counters end in _total, units are base units, and everything has a help text."""
    await post_job(client, proxy.queue_job)
    text = await _scrape(client, proxy)
    families = list(text_string_to_metric_families(text))
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"async_job_proxy_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith((".", "seconds", "bytes")), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_kilobytes"))
    counters = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE") and line.endswith("counter")}
    assert all(name.endswith("_total") for name in counters)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)")
async def test_promtool_finds_nothing_to_say(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """`promtool check metrics` is silent."""
    await post_job(client, proxy.queue_job)
    text = await _scrape(client, proxy)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
