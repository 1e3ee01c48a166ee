"""To which of a name's addresses a worker connects, and how."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohappyeyeballs
import pytest

from worker import connection

_TCP = (socket.AF_INET6, socket.SOCK_STREAM, 6, "")


@pytest.mark.parametrize(
    ("found", "is_raced"),
    [
        ([(*_TCP, ("::1", 80, 0, 0))], False),
        ([(*_TCP, ("fe80::1", 80, 0, 3))], True),  # link-local: it differs on each interface
        ([(*_TCP, ("::1", 80, 0, 0)), (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))], True),
    ],
)
async def test_only_one_address_that_says_all_is_connected_to_by_name(
    monkeypatch: pytest.MonkeyPatch, found: list[Any], *, is_raced: bool
) -> None:
    """All others need a socket that is connected to the complete address."""
    given: list[Any] = []

    async def start_connection(infos: Any, **_: object) -> str:  # noqa: ANN401 - as in getaddrinfo
        given.extend(infos)
        return "a socket"

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    place = await connection._place(found, asyncio.get_running_loop())  # noqa: SLF001 - the choice itself
    assert given == (found if is_raced else [])
    assert place == ({"sock": "a socket"} if is_raced else {"host": "::1", "port": 80})
