"""Which idle connections are closed when descriptors run short."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from dataclasses import dataclass

import pytest

from proxy import log
from proxy.http.connections import Connections, Room, has_unread
from proxy.http.time_limits import Limits
from tests.support.waiting import eventually


@dataclass(eq=False)
class Fake:
    """A connection."""

    idle_until: float | None
    stopped: bool = False
    has_unread: bool = False

    def stop(self) -> None:
        """Record it."""
        self.stopped = True

    def cut_off(self) -> None:
        """Ignore it: there is no body."""


def listener(room: Room, *times: float | None) -> list[Fake]:
    """Return the connections of one more listener, idle until these times."""
    made = [Fake(until) for until in times]
    Connections(Limits(), room).open.update(made)
    return made


def test_nothing_is_closed_while_there_is_room() -> None:
    """One more fits."""
    room = Room(most=3)
    idle = listener(room, 1.0, 2.0)
    room.make()
    assert not any(connection.stopped for connection in idle)


def test_the_one_that_would_be_closed_the_soonest_is_closed() -> None:
    """Of any listener; one with a request is left alone."""
    room = Room(most=5)
    public, callbacks = listener(room, 9.0, None, 5.0), listener(room, 1.0, None)
    room.make()
    assert [connection.stopped for connection in public + callbacks] == [False, False, False, True, False]


def test_the_few_that_have_just_come_stay() -> None:
    """Their requests are about to come; of many, older ones go before any that was used."""
    room, now = Room(most=3), time.monotonic()
    head_s = Limits().head_s
    used, *silent = listener(room, now + 50, *(now + head_s - number / 100 for number in range(10)))
    for _ in range(3):
        room.make()
        for one in (used, *silent):
            one.idle_until = None if one.stopped else one.idle_until
    assert [one.stopped for one in (*silent, used)] == [False] * 8 + [True] * 3


def test_one_whose_request_has_come_is_not_closed() -> None:
    """It has only not been read yet."""
    room = Room(most=1)
    (connection,) = listener(room, 1.0)
    connection.has_unread = True
    room.make()
    assert not connection.stopped


async def test_what_has_come_is_seen_before_it_is_read() -> None:
    """The kernel tells; for a closed connection, there is nothing."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()
        before = has_unread(transport)
        theirs.send(b"x")
        assert (before, has_unread(transport)) == (False, True)
        transport.abort()
        await eventually(lambda: ours.fileno() == -1)
        assert not has_unread(transport)


def test_where_none_is_idle_none_is_closed() -> None:
    """Clients that wait for an answer get it."""
    room = Room(most=2)
    busy = listener(room, None, None)
    room.make()
    assert not any(connection.stopped for connection in busy)


def test_of_many_several_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Because the search costs the same for one as for all; it is logged, but not each time."""
    lines: list[object] = []
    monkeypatch.setattr(log, "event", lambda *_, **fields: lines.append(fields))
    room = Room(most=320)
    idle = listener(room, *(float(number) for number in range(320)))
    room.make()
    assert [connection.stopped for connection in idle] == [True] * 20 + [False] * 300
    room.make()
    assert lines == [{"open": 320, "idle": 320}]


@pytest.mark.parametrize(
    ("limit", "most"), [(1024, 512), (1_048_576, 10_000), (resource.RLIM_INFINITY, 10_000)], ids=str
)
def test_connections_have_half_of_the_descriptors(limit: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never more than the memory allows."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    room = Room()
    idle = listener(room, *(float(number) for number in range(most - 1)))
    room.make()
    assert not any(connection.stopped for connection in idle)
    idle += listener(room, 0.5)
    room.make()
    assert any(connection.stopped for connection in idle)
