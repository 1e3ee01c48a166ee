"""The first minutes: `python run.py` with nothing configured, and what it prints."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.waiting import IN_VAIN_S, eventually_blocking

#: The program, which also says, once it listens, whether garbage is collected.
_TELLS = """
import gc, sys
from proxy.__main__ import main
from proxy.run import process
banner = process.banner
process.banner = lambda *given: f"{banner(*given)}\\ngarbage is collected: {gc.isenabled()}"
sys.exit(main())
"""

#: They share a proxy, which would be started once for each process that runs one of them.
pytestmark = pytest.mark.xdist_group("first run")


@pytest.fixture(scope="module")
def proxy() -> Iterator[ProxyProcess]:
    """The proxy with its embedded job server, on free ports."""
    with ProxyProcess.started() as proxy:
        eventually_blocking(lambda: any("curl" in line for line in proxy.stdout))
        yield proxy
        assert proxy.stop() == 0


def pasted(proxy: ProxyProcess) -> str:
    """The line to paste."""
    (line,) = (line.strip() for line in proxy.stdout if "curl" in line)
    return line


def test_it_says_where_it_listens(proxy: ProxyProcess) -> None:
    """The addresses of the clients' routes, the dashboard and the embedded job server, for people to read."""
    banner = "\n".join(proxy.stdout)
    assert proxy.url in banner
    assert f"Dashboard: {proxy.admin}/" in banner
    assert "Embedded job server: http://127.0.0.1:" in banner
    assert proxy.listening["job_server"] == "embedded"


def test_the_line_to_paste_is_a_request_for_a_job(proxy: ProxyProcess) -> None:
    """Sent unchanged, it is answered with a completed job."""
    words = shlex.split(pasted(proxy))
    assert words[0] == "curl"
    options = dict(zip(words[1:-1:2], words[2:-1:2], strict=True))
    name, _, value = options["-H"].partition(": ")
    request = urllib.request.Request(words[-1], data=options["-d"].encode(), headers={name: value})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=IN_VAIN_S) as answer:  # noqa: S310 - ours
        assert answer.status == 200
        assert json.load(answer)["state"] == "completed"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here; the test above sends the same request")
def test_the_line_to_paste_works_when_pasted(proxy: ProxyProcess) -> None:
    """With a shell and the real curl."""
    ended = subprocess.run(
        ["sh", "-c", pasted(proxy)],
        capture_output=True,
        text=True,
        timeout=IN_VAIN_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert json.loads(ended.stdout)["state"] == "completed"


def test_fifty_jobs_at_once_pass(proxy: ProxyProcess) -> None:
    """The job client's own verdict: 50 of 50, distinct ids, within its 5 s; the log has a line for each."""
    before = len(proxy.events_of("job succeeded"))
    watch = proxy.stopwatch()
    ended = subprocess.run(
        [sys.executable, "-m", "jobclient", f"{proxy.url}/queueJob", "--jobs", "50", "--limit", "5", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * IN_VAIN_S,
        check=False,
    )
    report = json.loads(ended.stdout)
    assert (report["jobs"], report["succeeded"], report["ids"]) == (50, 50, 50)
    assert report["total_s"] - watch.starved_s < 5, report
    in_time = report["total_s"] < 5
    assert (report["passed"], ended.returncode) == (in_time, 0 if in_time else 1), ended.stderr
    eventually_blocking(lambda: len(proxy.events_of("job succeeded")) >= before + 50)
    ids = [line["job_id"] for line in proxy.events_of("job succeeded")]
    assert len(set(ids)) == len(ids)


def test_the_same_fifty_jobs_straight_at_the_job_server_do_not_pass(proxy: ProxyProcess) -> None:
    """One connection at a time: what takes a second through the proxy takes longer than the limit without it."""
    (line,) = (line for line in proxy.stdout if "Embedded job server" in line)
    url = next(word for word in line.split() if word.startswith("http"))
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "jobclient", url, "--jobs", "6", "--account", "direct", "--limit", "2", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * IN_VAIN_S,
        check=False,
    )
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["passed"] is False
    assert time.monotonic() - begun >= 6 * 0.5


class TellingProxy(ProxyProcess):
    """A proxy that says whether garbage is collected."""

    PROGRAM = (sys.executable, "-c", _TELLS)


def test_garbage_is_collected_once_it_listens() -> None:
    """Not before: nothing of what is loaded would be garbage."""
    with TellingProxy.started(JOB_SERVER_URL="http://127.0.0.1:9/start", WORKER_SPARES="1") as proxy:
        eventually_blocking(lambda: "garbage is collected: True" in proxy.stdout)
