"""Where CALLBACK_URL leads, as far as a call to it can tell."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from proxy.run.callback_probe import Leads, StandIn, where_it_leads
from shared.settings import load
from tests.support.waiting import IN_VAIN_S

_TLS = Path(__file__).resolve().parents[2] / "support" / "tls"


@pytest.mark.parametrize(
    ("path", "leads"),
    [
        ("/callback", Leads.TO_THE_ROUTE),
        ("", Leads.TO_ANOTHER_PATH),
        ("/callbacks", Leads.TO_ANOTHER_PATH),
        ("/callback/v1", Leads.TO_ANOTHER_PATH),
    ],
)
async def test_only_the_path_of_the_route_leads_there(path: str, leads: Leads) -> None:
    """Any other path is the proxy's but not the route's: the words say where the route is."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with StandIn(listener, load({})):
        found, words = await where_it_leads(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", IN_VAIN_S)
    assert found is leads
    assert ("/callback, on CALLBACK_PORT if that is set" in words) is (leads is Leads.TO_ANOTHER_PATH)


@pytest.mark.parametrize(
    ("scheme", "settings", "hint"),
    [
        ("https", {}, "is it http:// rather than https://?"),
        (
            "http",
            {"TLS_CERTFILE": str(_TLS / "cert.pem"), "TLS_KEYFILE": str(_TLS / "key.pem")},
            "is it https:// rather than http://?",
        ),
    ],
)
async def test_the_other_scheme_leads_elsewhere(scheme: str, settings: dict[str, str], hint: str) -> None:
    """Somebody is there, so this is no address that only the job server can reach: a start warns of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with StandIn(listener, load(settings)):
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/callback"
        found, words = await where_it_leads(url, IN_VAIN_S)
    assert found is Leads.ELSEWHERE
    assert words.endswith(hint)


@pytest.mark.parametrize(("login", "leads"), [("", Leads.ELSEWHERE), ("user:password@", Leads.NOWHERE)])
async def test_a_gateway_that_asks_for_the_log_in_of_the_address_may_lead_there(login: str, leads: Leads) -> None:
    """The password is for the job server to send: who answers here may be anybody."""
    heads: list[bytes] = []

    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(gateway, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found, words = await where_it_leads(f"http://{login}127.0.0.1:{port}/callback", IN_VAIN_S)
    assert found is leads
    assert ("asks for its user name and password" in words) is bool(login)
    assert b"authorization" not in heads[0].lower()
