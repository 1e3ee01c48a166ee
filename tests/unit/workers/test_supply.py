"""How workers are started, with a fork server that creates pipes instead of processes."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.workers import supply
from proxy.workers.status import Counts
from proxy.workers.supply import Supply
from tests.support.fork_server import FakeForkServer
from tests.support.jumping_loop import time_passes
from tests.support.waiting import eventually


class _Shop:
    """The user of a supply; closes the workers that it gets."""

    def __init__(self, servers: list[FakeForkServer]) -> None:
        self.servers = servers
        self.counts = Counts()
        self.supply = Supply(b"", self, self.counts)
        self.got: list[int] = []
        self.exited: list[tuple[int, int]] = []
        self.holds: list[str] = []
        self.ready = 0

    @property
    def server(self) -> FakeForkServer:
        """The current fork server."""
        return self.servers[-1]

    def on_forked(self, pid: int, *fds: int) -> None:
        """Record a worker."""
        self.got.append(pid)
        for fd in fds:
            os.close(fd)

    def on_exited(self, pid: int, status: int) -> None:
        """Record an exit."""
        self.exited.append((pid, status))

    def on_hold_begun(self) -> None:
        """Record that no workers can be started."""
        self.holds.append(self.supply.on_hold)

    def on_ready(self) -> None:
        """Record that workers can be requested."""
        self.ready += 1


@pytest.fixture
async def shop(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Shop]:
    """A shop whose supply has been started, with short retries."""
    for name in ("_RETRY_S", "_RESTART_S"):
        monkeypatch.setattr(supply, name, 0.01)
    servers: list[FakeForkServer] = []
    monkeypatch.setattr(supply, "ForkServer", type("Fake", (FakeForkServer,), {"made": servers}))
    made = _Shop(servers)
    await made.supply.start()
    yield made
    for server in servers:
        for pid in list(server.alive):
            server.ends(pid, 0)
    await made.supply.stop()


async def test_only_what_is_not_on_its_way_is_requested(shop: _Shop) -> None:
    """A larger request asks for the difference; a smaller one for nothing."""
    for wanted in (3, 3, 5, 1, 0):
        shop.supply.request(wanted)
    assert shop.server.requests == [3, 2]
    shop.server.answers(2)
    assert len(shop.got) == 2
    shop.supply.request(4)
    assert shop.server.requests == [3, 2, 1]


async def test_an_exit_status_is_passed_on(shop: _Shop) -> None:
    """To the worker's owner."""
    shop.supply.request(1)
    shop.server.answers()
    shop.server.ends(shop.got[0], -9)
    assert shop.exited == [(shop.got[0], -9)]


async def test_a_fork_that_fails_begins_a_hold_and_one_that_works_ends_it(shop: _Shop) -> None:
    """Meanwhile one worker is tried now and then, and nothing else is requested."""
    shop.supply.request(1)
    shop.server.fails()
    assert shop.holds == ["no worker could be started: out of cheese"]
    shop.supply.request(7)
    await eventually(lambda: len(shop.server.requests) == 2)
    await time_passes(1)
    assert shop.server.requests[1:] == [1], "the one that was not answered yet"
    shop.server.answers(1)
    assert not shop.supply.on_hold
    await time_passes(1)
    shop.supply.request(7)
    assert shop.server.requests[2:] == [7]
    assert (shop.counts.failed_forks, shop.counts.started) == (1, 1)


async def test_forks_that_fail_on_and_on_are_one_hold(shop: _Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged once, and each failure is followed by one further attempt, after the same pause."""
    lines: list[str] = []
    monkeypatch.setattr("proxy.log.event", lambda _level, words, **_fields: lines.append(words))
    monkeypatch.setattr(supply, "_RETRY_S", 0.5)
    server, fork = shop.server, shop.server.fork

    def fork_in_vain(count: int) -> None:
        fork(count)
        asyncio.get_running_loop().call_soon(server.fails)

    monkeypatch.setattr(server, "fork", fork_in_vain)
    shop.supply.request(1)
    await time_passes(4.75)
    assert server.requests == [1] * 10
    assert lines == ["new jobs are refused until a worker can be started"]


async def test_many_idle_workers_that_die_are_a_storm(shop: _Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a number of deaths within some seconds, workers are no longer replaced without end."""
    monkeypatch.setattr(supply, "_STORM_DEATHS", 5)
    shop.supply._deaths = deque(maxlen=5)  # noqa: SLF001 - as patched
    for death in range(5):
        assert not shop.holds, death
        shop.supply.note_death()
    assert "5 spare workers died" in shop.holds[0]
    shop.supply.note_death()  # one more death is no other storm
    assert (shop.counts.storms, shop.counts.spares_died) == (1, 6)
    await eventually(lambda: shop.server.requests == [1])
    shop.server.answers(1)
    shop.supply.note_death()
    assert not shop.supply.on_hold


async def test_deaths_far_apart_are_no_storm(shop: _Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are accidents."""
    monkeypatch.setattr(supply, "_STORM_DEATHS", 5)
    shop.supply._deaths = deque(maxlen=5)  # noqa: SLF001 - as patched
    for pause_s, is_storm in ((2.6, False), (2.4, True)):
        for _ in range(10):
            shop.supply.note_death()
            await time_passes(pause_s)
        assert bool(shop.holds) is is_storm


async def test_a_fork_server_that_dies_is_replaced(shop: _Shop) -> None:
    """The user is notified of the new one, since requests to the old one are lost."""
    shop.supply.request(2)
    shop.server.answers(1)
    shop.server.listener.on_lost()
    assert shop.supply.fork_server_pid == 0
    await eventually(lambda: shop.ready == 2)
    shop.supply.request(1)
    assert [server.requests for server in shop.servers] == [[2], [1]]
    assert shop.counts.fork_servers == 2


async def test_one_that_dies_before_its_first_worker_is_a_hold_at_once(shop: _Shop) -> None:
    """The next one will probably die, too; the first worker ends the hold."""
    shop.server.listener.on_lost()
    assert shop.holds == ["the fork server ended before it had made a worker"]
    await eventually(lambda: shop.servers[1:] and shop.server.requests == [1])
    shop.server.answers(1)
    assert not shop.supply.on_hold


async def test_a_new_fork_server_without_a_worker_for_long_is_a_hold(
    shop: _Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs do not wait forever."""
    monkeypatch.setattr(supply, "_LOST_S", 0.01)
    shop.supply.request(1)
    shop.server.answers()
    shop.server.listener.on_lost()
    await eventually(lambda: shop.holds)
    assert "after the fork server was lost" in shop.holds[0]


async def test_each_loss_is_followed_by_a_hold_only_if_no_worker_comes(shop: _Shop) -> None:
    """A worker of the new fork server is in time for the jobs that wait; one of an earlier loss is not."""
    for hold in ([], ["no worker was made within 1 s after the fork server was lost"]):
        shop.supply.request(1)
        shop.server.answers()
        shop.server.listener.on_lost()
        await eventually(lambda: shop.supply.fork_server_pid)
        if not hold:
            shop.supply.request(1)
            shop.server.answers()
        await time_passes(2)
        assert shop.holds == hold


async def test_a_new_fork_server_that_dies_before_its_first_worker_is_a_hold_at_once(shop: _Shop) -> None:
    """Whatever the one before has made."""
    shop.supply.request(1)
    shop.server.answers()
    shop.server.listener.on_lost()
    await eventually(lambda: len(shop.servers) == 2)
    assert not shop.holds
    shop.server.listener.on_lost()
    assert shop.holds == ["the fork server ended before it had made a worker"]


async def test_a_fork_server_is_replaced_at_once_but_not_without_end(
    shop: _Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies after a while is; ones that die at once would take all CPUs."""
    monkeypatch.setattr(supply, "_RESTART_S", 0.5)
    await time_passes(1)
    shop.server.listener.on_lost()
    await time_passes(0.01)
    assert len(shop.servers) == 2
    for count in range(3, 6):
        shop.server.listener.on_lost()
        await time_passes(0.35)
        assert len(shop.servers) == count - 1
        await time_passes(0.2)
        assert len(shop.servers) == count


async def test_a_fork_server_that_starts_as_the_supply_ends_is_not_taken(
    shop: _Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end it."""
    may_start = asyncio.Event()

    async def start(self: FakeForkServer, _spawned: object = None) -> None:
        shop.servers.append(self)
        await may_start.wait()

    monkeypatch.setattr(FakeForkServer, "start", start)
    shop.server.listener.on_lost()
    await eventually(lambda: len(shop.servers) > 1)
    shop.supply.close()
    may_start.set()
    await time_passes(1)
    assert shop.ready == 1


@pytest.mark.parametrize("error", [OSError(11, "Resource temporarily unavailable"), MemoryError()])
async def test_a_fork_server_that_cannot_be_started_is_tried_again(
    error: Exception, shop: _Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile there is a hold that says why."""
    shop.supply.request(1)
    shop.server.answers()
    monkeypatch.setattr(FakeForkServer, "start_error", error)
    shop.server.listener.on_lost()
    reason = getattr(error, "strerror", "MemoryError")
    await eventually(lambda: any(reason in hold for hold in shop.holds))
    monkeypatch.setattr(FakeForkServer, "start_error", None)
    await eventually(lambda: shop.ready == 2)


@pytest.mark.parametrize(
    "happens",
    [
        lambda shop: shop.server.listener.on_lost(),
        lambda shop: shop.server.listener.on_fork_failed("too late"),
        lambda shop: shop.supply.request(5),
    ],
)
async def test_a_supply_that_is_closed_does_nothing_any_more(
    shop: _Shop, happens: Callable[[_Shop], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens."""
    lines: list[str] = []
    monkeypatch.setattr("proxy.log.event", lambda _level, words, **_fields: lines.append(words))
    shop.supply.close()
    happens(shop)
    await time_passes(3)
    assert (shop.holds, lines) == ([], [])
    assert shop.servers[0].requests == []
    assert len(shop.servers) == 1


@pytest.mark.parametrize(
    "happens",
    [
        lambda shop: shop.server.listener.on_lost(),
        lambda shop: shop.server.listener.on_fork_failed("too early"),
    ],
)
async def test_a_supply_that_is_closed_does_not_go_on(shop: _Shop, happens: Callable[[_Shop], None]) -> None:
    """Whatever happened before."""
    happens(shop)
    shop.supply.close()
    await time_passes(3)
    assert shop.servers[0].requests == []
    assert len(shop.servers) == 1
