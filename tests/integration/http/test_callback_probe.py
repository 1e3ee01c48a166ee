"""Where CALLBACK_URL leads, as far as a call to it can tell."""

from __future__ import annotations

import socket

import pytest

from proxy.run.callback_probe import Leads, StandIn, where_it_leads
from shared.settings import load
from tests.support.waiting import IN_VAIN_S


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
