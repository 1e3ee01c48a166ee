"""No process has more than it needs, and nobody is shown callback URLs."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import IN_VAIN_S, eventually_blocking


def test_no_process_below_the_front_end_has_the_keys() -> None:
    """Neither in its environment nor on its command line: workers, the fork server, the embedded job server."""
    with ProxyProcess.started(API_KEYS="hidden-key", WORKER_SPARES="2", AWS_SECRET_ACCESS_KEY="hidden-too") as proxy:
        eventually_blocking(lambda: len(proxy.descendants()) >= 4)
        for process in proxy.descendants():
            folder = Path(f"/proc/{process.pid}")
            for name in ("environ", "cmdline"):
                assert b"hidden" not in (folder / name).read_bytes(), process.cmdline()
        assert proxy.stop() == 0


def test_the_embedded_job_server_shows_no_callback_address() -> None:
    """Whoever knows one can answer for the job server; the counts are public."""
    with ProxyProcess.started() as proxy:
        eventually_blocking(lambda: any("Embedded job server" in line for line in proxy.stdout))
        (line,) = (line for line in proxy.stdout if "Embedded job server" in line)
        url = next(word for word in line.split() if word.startswith("http")).removesuffix("/start")
        with urllib.request.urlopen(f"{url}/ledger/summary", timeout=IN_VAIN_S) as answer:  # noqa: S310 - ours
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/ledger", timeout=IN_VAIN_S)  # noqa: S310 - ours
        assert caught.value.code == 404
        caught.value.close()
        assert proxy.stop() == 0
