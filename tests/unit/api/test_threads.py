"""What takes long is done in another thread, or here if there is none; on a real event loop, as threads take time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy.api.threads import in_thread


def test_work_is_done_in_another_thread() -> None:
    """The event loop goes on."""
    assert asyncio.run(in_thread(threading.current_thread)) is not threading.main_thread()


def test_where_no_thread_can_be_started_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody waits for what it returns."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work() -> tuple[threading.Thread, tuple[str, ...]]:
        with monkeypatch.context() as patch:  # the loop itself starts a thread at its end
            patch.setattr(threading.Thread, "start", fail)
            return await in_thread(lambda *words: (threading.current_thread(), words), "a", "b")

    assert asyncio.run(work()) == (threading.main_thread(), ("a", "b"))


def test_work_that_fails_is_not_done_again_here() -> None:
    """What recurses too deeply raises a RuntimeError as well, after a time that the event loop must not wait."""
    where = []

    def recurse() -> None:
        where.append(threading.current_thread())
        raise RecursionError

    with pytest.raises(RecursionError):
        asyncio.run(in_thread(recurse))
    assert len(where) == 1
    assert where[0] is not threading.main_thread()
