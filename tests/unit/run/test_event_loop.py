"""The front end's event loop."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from psycopg import AsyncConnection, OperationalError

from proxy.run.event_loop import EventLoop


def test_a_name_for_whose_look_up_there_is_no_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the name of the database's host, at the limit of processes; libuv would abort the process."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def connect() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(OperationalError, match="no more threads can be started"):
                await AsyncConnection.connect("host=database.invalid")

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(connect())


def test_look_ups_that_hang_take_no_thread_from_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks may need one."""
    answers = threading.Event()

    def hang(*_args: object, **_hints: object) -> list[object]:
        answers.wait()
        return []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        looking = [asyncio.create_task(loop.getaddrinfo("database.invalid", 5432)) for _ in range(50)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.to_thread(lambda: 1) == 1
        finally:
            answers.set()
        await asyncio.gather(*looking)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(work())
