"""Which notifications the service manager gets, and when; and that it cannot block anything."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy import log
from proxy.run import service_manager
from proxy.run.service_manager import ServiceManager
from tests.support.notify_socket import NotifySocket
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("made")

#: More than any socket's queue can hold.
MANY = 5_000


@pytest.fixture
def manager() -> Iterator[NotifySocket]:
    """A listening service manager."""
    with NotifySocket() as it:
        yield it


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The logged warnings."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda level, what, **fields: found.append(dict(fields, level=level, what=what)))
    return found


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close everything at the end of the test."""
    makes = ServiceManager.__init__
    open_ones: list[ServiceManager] = []

    def make(self: ServiceManager, environ: Mapping[str, str]) -> None:
        makes(self, environ)
        open_ones.append(self)

    monkeypatch.setattr(ServiceManager, "__init__", make)
    yield
    for one in open_ones:
        one.close()


def telling(manager: NotifySocket, **environ: str) -> ServiceManager:
    """Return a ServiceManager that notifies `manager`."""
    return ServiceManager({"NOTIFY_SOCKET": manager.name, **environ})


def always() -> bool:
    """The proxy is ready."""
    return True


async def test_without_a_socket_nothing_is_said(warnings: list[dict[str, Any]]) -> None:
    """And nothing is started."""
    told = ServiceManager({"WATCHDOG_USEC": "1000"})
    told.inform(always, str)
    told.reloading()
    told.reloaded()
    told.stopping(1)
    assert len(asyncio.all_tasks()) == 1
    assert warnings == []


async def test_a_path_does_as_well(tmp_path: Path) -> None:
    """The other tests use a name in the abstract namespace."""
    with NotifySocket(tmp_path) as manager:
        telling(manager).inform(always, lambda: "well")
        assert await eventually(manager.received) == ["READY=1\nSTATUS=well"]


async def test_a_bug_in_the_status_does_not_keep_the_start_waiting(
    manager: NotifySocket, monkeypatch: pytest.MonkeyPatch, warnings: list[dict[str, Any]]
) -> None:
    """READY=1 would never be sent, and the service manager would end the proxy. It is logged once."""
    monkeypatch.setattr(service_manager, "_START_LOOK_S", 0.001)
    monkeypatch.setattr(service_manager, "_LOOK_S", 0.001)
    calls: list[int] = []

    def status() -> str:
        calls.append(1)
        if len(calls) > 9:
            return "well"
        raise ValueError

    telling(manager).inform(lambda: len(calls) > 3, status)
    await eventually(lambda: manager.count("STATUS=well"))
    assert manager.messages == ["READY=1", "STATUS=well"]
    assert [(line["level"], line["what"], line["kind"]) for line in warnings] == [
        ("error", "unhandled exception in the service's status", "ValueError")
    ]


async def test_ready_is_said_once_and_when_it_is_so(manager: NotifySocket) -> None:
    """The status is sent before, and whenever it changes: in one line, and truncated."""
    is_ready, status = False, "starting\nREADY=1 " + "x" * 300
    telling(manager).inform(lambda: is_ready, lambda: status)
    (first,) = await eventually(manager.received)
    assert first.startswith("STATUS=starting READY=1 xxx")
    assert len(first) == len("STATUS=") + 200
    is_ready, status = True, "well"
    assert (await eventually(lambda: manager.received()[1:])) == ["READY=1\nSTATUS=well"]
    status = "short of memory"
    assert (await eventually(lambda: manager.received()[2:])) == ["STATUS=short of memory"]


async def test_a_reload_has_a_beginning_with_its_time_and_an_end(manager: NotifySocket) -> None:
    """In microseconds of the monotonic clock, not earlier than the signal."""
    told = telling(manager)
    told.inform(always, str)
    await eventually(manager.received)
    before = time.monotonic_ns() // 1000
    told.reloading()
    told.reloaded()
    begun, ended = manager.received()[1:]
    name, _, moment = begun.removeprefix("RELOADING=1\n").partition("=")
    assert (name, ended) == ("MONOTONIC_USEC", "READY=1")
    assert before <= int(moment) <= time.monotonic_ns() // 1000


async def test_a_reload_before_the_proxy_is_ready_does_not_make_it_so(manager: NotifySocket) -> None:
    """A start waits for READY=1."""
    told = telling(manager)
    told.inform(lambda: False, lambda: "")
    told.reloading()
    told.reloaded()
    assert manager.received() == []


async def test_the_end_is_said_with_the_time_that_it_may_take(manager: NotifySocket) -> None:
    """After that, nothing makes it ready again: neither a late worker nor a reload."""
    is_ready = False
    told = telling(manager, WATCHDOG_USEC="2000")
    told.inform(lambda: is_ready, lambda: "ending" if is_ready else "starting")
    await eventually(lambda: manager.count("STATUS=starting"))
    told.stopping(44.5)
    is_ready = True
    told.reloading()
    told.reloaded()
    await eventually(lambda: manager.count("STATUS=ending"))
    said = [message for message in manager.received() if message != "WATCHDOG=1"]
    assert said == ["STATUS=starting", "STOPPING=1\nEXTEND_TIMEOUT_USEC=44500000", "STATUS=ending"]


async def test_signs_of_life_come_as_long_as_the_loop_moves(manager: NotifySocket) -> None:
    """Also while it is not ready, or stops; none while the loop is blocked, and again afterwards."""
    telling(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid())).inform(lambda: False, str)
    await eventually(lambda: manager.count("WATCHDOG=1") >= 3)
    before = manager.count("WATCHDOG=1")
    time.sleep(0.1)  # noqa: ASYNC251 - the loop is blocked
    assert manager.count("WATCHDOG=1") == before
    await eventually(lambda: manager.count("WATCHDOG=1") > before)


async def test_signs_of_life_come_twice_as_often_as_they_must(
    manager: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval between two heartbeats."""
    waited = set()
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        waited.add(delay_s)
        await sleep(3600)

    monkeypatch.setattr(asyncio, "sleep", note)
    telling(manager, WATCHDOG_USEC="30000000").inform(always, str)
    while len(waited) < 2:
        await sleep(0)
    assert waited == {15.0, 1.0}


@pytest.mark.parametrize(("usec", "ours"), [("", True), ("0", True), ("soon", True), ("-5", True), ("2000", False)])
async def test_no_signs_of_life_where_nobody_waits_for_them(manager: NotifySocket, usec: str, ours: bool) -> None:
    """Or if they are expected of another process, whose environment this one inherited."""
    changes = iter(range(MANY))
    telling(manager, WATCHDOG_USEC=usec, WATCHDOG_PID=str(os.getpid() if ours else 1)).inform(
        lambda: False, lambda: str(next(changes))
    )
    await eventually(lambda: manager.count("STATUS=2"))
    assert manager.count("WATCHDOG=1") == 0


async def test_one_who_does_not_read_holds_up_nothing(
    manager: NotifySocket, warnings: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages keep their order when it reads again; the oldest ones beyond the limit are dropped."""
    monkeypatch.setattr(service_manager, "_LOOK_S", 0.01)
    told = telling(manager)
    told.inform(always, lambda: "")
    await eventually(manager.received)
    for _ in range(MANY):
        told.reloading()
        told.reloaded()
    told.stopping(1)
    await eventually(lambda: manager.received()[-1].startswith("STOPPING=1"))
    assert len(manager.messages) < MANY
    assert warnings == []


@pytest.mark.parametrize("name", ["{folder}/nobody", "@nobody-here", "{folder}/" + "x" * 200, "vsock:2:1234"])
async def test_one_who_is_gone_costs_one_line(name: str, tmp_path: Path, warnings: list[dict[str, Any]]) -> None:
    """The proxy continues."""
    told = ServiceManager({"NOTIFY_SOCKET": name.format(folder=tmp_path), "WATCHDOG_USEC": "2000"})
    told.inform(always, str)
    await eventually(lambda: warnings)
    told.reloading()
    told.stopping(1)
    (line,) = warnings
    assert (line["level"], line["what"]) == ("warning", "the service manager cannot be notified")
    assert line["reason"]


async def test_one_who_comes_back_hears_again(tmp_path: Path, warnings: list[dict[str, Any]]) -> None:
    """With the same name."""
    with NotifySocket(tmp_path) as manager:
        told = telling(manager)
        told.inform(always, str)
        await eventually(manager.received)
    Path(manager.name).unlink()
    told.reloading()
    assert len(warnings) == 1
    with NotifySocket(tmp_path) as again:
        Path(again.name).rename(manager.name)
        told.reloaded()
        assert again.received() == ["READY=1"]
