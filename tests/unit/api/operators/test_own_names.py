"""The host names under which the admin address may be used."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from proxy.api.operators.admin import OwnNames
from shared.errors import Code, RequestError


async def _asked_by(host: bytes | None, admin_host: str = "admin.example.com") -> bool:
    """Return whether the routes were reached by a request for `host`."""
    reached = False

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        nonlocal reached
        reached = True

    async def receive() -> Message:
        raise AssertionError

    async def send(_message: Message) -> None:
        raise AssertionError

    headers = [] if host is None else [(b"host", host)]
    await OwnNames(app, [admin_host, "proxy"])({"type": "http", "headers": headers}, receive, send)
    return reached


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:3001",
        b"LOCALHOST:3001",
        b"127.0.0.1",
        b"10.1.2.3:3001",
        b"[::1]",
        b"[::1]:3001",
        b"admin.example.com",
        b"Admin.Example.Com:3001",
        b"proxy:3001",
        b"",
        None,
    ],
)
async def test_addresses_and_own_names_are_let_through(host: bytes | None) -> None:
    """An address, ADMIN_HOST, one of ADMIN_NAMES, or localhost; a client without a Host is not a browser."""
    assert await _asked_by(host)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:3001",
        b"127.0.0.1.evil.example",
        b"127.0.0.1.evil.example:3001",
        b"localhost.evil.example",
        b"admin.example.com.evil.example",
        b"evil.example]",
        b"[evil.example]:3001",
        b"localhost.",
        b"intranet",
        b"intranet:3001",
        b"proxy.",
        b"\xff.example",
    ],
)
async def test_other_names_are_forbidden(host: bytes) -> None:
    """The owner of a domain can make it point anywhere."""
    with pytest.raises(RequestError) as caught:
        await _asked_by(host)
    assert caught.value.code is Code.FORBIDDEN
    assert "ADMIN_NAMES" in caught.value.detail  # an operator with a name of the machine has to learn what to set
