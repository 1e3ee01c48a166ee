"""Proxies that many tests share, because a start costs more than most tests."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import Final

from tests.support.proxy_process import ProxyProcess

__all__ = ["SharedProxies"]

#: How long all of them together may take: pytest-xdist waits for its workers' end for 10 s only.
_DRAIN_S: Final = 1.0
_LEAVE_S: Final = 2.0


class SharedProxies:
    """One proxy for each set of settings, started when it is first needed. Not for tests that damage it."""

    def __init__(self, job_server_url: str) -> None:
        """`job_server_url`: where the proxies submit jobs."""
        self._job_server_url = job_server_url
        self._proxies: dict[frozenset[tuple[str, str]], ProxyProcess] = {}

    def get(self, **settings: str) -> ProxyProcess:
        """Return the proxy with these settings; a new one if a test has ended the previous one."""
        key = frozenset(settings.items())
        if key not in self._proxies or self._proxies[key].returncode is not None:
            defaults = {"JOB_SERVER_URL": self._job_server_url, "WORKER_SPARES": "4"}
            self._proxies[key] = ProxyProcess.started(**(defaults | settings))
        return self._proxies[key]

    def close(self) -> None:
        """End them all."""
        for limit_s in (_DRAIN_S, _LEAVE_S):  # a second signal ends proxies that still have jobs in flight
            until = time.monotonic() + limit_s
            running = [proxy for proxy in self._proxies.values() if proxy.returncode is None]
            for proxy in running:
                proxy.signal(signal.SIGTERM)
            for proxy in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    proxy.wait(max(0.0, until - time.monotonic()))
        for proxy in self._proxies.values():
            proxy.kill()
        self._proxies.clear()
