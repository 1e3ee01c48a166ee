"""What is logged when the event loop is blocked, and that it continues."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from proxy.run import stall_watch
from proxy.run.stall_watch import StallWatch
from tests.support.waiting import eventually


async def test_each_block_is_logged_with_its_place_and_once_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's timer is wound up as long as the event loop runs; when it expires, the handler reports."""
    handlers: dict[int, Callable[..., None]] = {}
    wound_up: list[float] = []
    logged: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "setitimer", lambda _which, seconds: wound_up.append(seconds))
    monkeypatch.setattr("proxy.log.event", lambda _level, words, **fields: logged.append((words, fields)))
    monkeypatch.setattr(stall_watch, "_EVERY_S", 0.001)
    monkeypatch.setattr(stall_watch, "_WRITE_S", 0)
    watch = StallWatch()
    watch.start()

    for _ in range(2):
        logged.clear()
        handlers[signal.SIGALRM](signal.SIGALRM, sys._getframe())  # noqa: SLF001 - as the interpreter passes it
        handlers[signal.SIGALRM](signal.SIGALRM, None)
        wound_up.clear()
        await eventually(lambda: len(wound_up) > 3)
        assert [words for words, _ in logged] == ["the event loop is blocked"] * 2 + ["the event loop continues"]
        assert logged[0][1]["at"].startswith("tests/unit/run/test_stall_watch.py:")

    watch.stop()
    assert wound_up[-1] == 0
