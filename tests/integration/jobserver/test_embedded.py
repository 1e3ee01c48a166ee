"""The embedded job server's process ends with the proxy."""

from __future__ import annotations

import threading

import psutil
import pytest

from proxy.run.embedded_job_server import EmbeddedJobServer


async def test_it_can_be_stopped_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a process limit; the end of the proxy must not fail for that."""
    before = psutil.Process().children()
    server = EmbeddedJobServer()
    (process,) = set(psutil.Process().children()).difference(before)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    await server.stop()

    assert not process.is_running()
