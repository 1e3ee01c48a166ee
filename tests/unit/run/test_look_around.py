"""Checks of the callback URL."""

from __future__ import annotations

import pytest

from proxy.run.look_around import callback_caveats

_ELSEWHERE = ["https://api.example.com/v1"]


@pytest.mark.parametrize(
    ("url", "caveats"),
    [
        ("https://proxy.example.com/callback", ""),
        ("https://proxy.example.com:8443/callback", ""),
        ("http://proxy.example.com/callback", "it is plain http"),
        ("https://proxy.example.com:3000/callback", "its port is 3000"),
        ("https://10.0.0.5/callback", "it is a private address"),
        ("https://[fd00::5]/callback", "it is a private address"),
        ("https://93.184.215.14/callback", ""),
        ("https://proxy/callback", "it is a private address"),
        ("http://192.168.1.7:3000/callback", "it is plain http, and it is a private address, and its port is 3000"),
    ],
)
def test_an_address_that_many_job_servers_refuse_to_call_is_told(url: str, caveats: str) -> None:
    """For each known reason; not for job servers on this machine, which may call any address."""
    assert callback_caveats(url, _ELSEWHERE) == caveats
    assert callback_caveats(url, ["http://127.0.0.1:5000/", *_ELSEWHERE]) == caveats
    assert callback_caveats(url, ["http://127.0.0.1:5000/"]) == ""
    assert callback_caveats(url, []) == ""
