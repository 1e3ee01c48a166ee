"""Headers of gateways are used if these are trusted, and if they are valid."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from proxy.http.forwarded import Forwarded
from shared.settings import load

GATEWAY = "10.0.0.7"


async def seen(
    headers: dict[str, str], *, peer: str = GATEWAY, trusted: str = "10.0.0.0/8, ::1", path: str = "/jobs/1"
) -> dict[str, Any]:
    """What the application sees of a request from `peer` with these headers."""
    found: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        found.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(_message: Message) -> None:
        raise AssertionError

    scope = {
        "type": "http",
        "scheme": "http",
        "path": path,
        "root_path": "",
        "client": (peer, 50_000),
        "headers": [
            (b"host", b"inside:3000"),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ],
    }
    await Forwarded(app, load({"TRUSTED_PROXIES": trusted}).trusted_proxies)(scope, receive, send)
    (one,) = found
    hosts = [value.decode() for name, value in one["headers"] if name == b"host"]
    return {name: one[name] for name in ("scheme", "path", "root_path")} | {"host": hosts, "client": one["client"][0]}


UNTOUCHED = {"scheme": "http", "path": "/jobs/1", "root_path": "", "host": ["inside:3000"], "client": GATEWAY}
ALL = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "jobs.example.com",
    "X-Forwarded-Prefix": "/async/jobs/",
}


async def test_a_trusted_gateway_is_believed() -> None:
    """The application sees the request as its client sent it."""
    assert await seen(ALL) == {
        "scheme": "https",
        "path": "/async/jobs/jobs/1",
        "root_path": "/async/jobs",
        "host": ["jobs.example.com"],
        "client": "203.0.113.9",
    }


@pytest.mark.parametrize("peer", ["203.0.113.1", "::2", "11.0.0.7"])
async def test_nobody_else_is(peer: str) -> None:
    """Anybody can write these headers."""
    assert await seen(ALL, peer=peer) == UNTOUCHED | {"client": peer}


@pytest.mark.parametrize("peer", ["::1", "::ffff:10.1.2.3"])
async def test_a_gateway_may_be_known_by_ipv6(peer: str) -> None:
    """Also if a socket shows an IPv4 address in this form."""
    assert (await seen(ALL, peer=peer))["scheme"] == "https"


async def test_without_its_headers_nothing_changes() -> None:
    """A gateway need not send them."""
    assert await seen({}) == UNTOUCHED


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "/",
        "jobs",
        "//evil.example",
        "/a//b",
        "/a/../b",
        "/..",
        "/.",
        '/a"b',
        "/a b",
        "/a?b",
        "/a%2fb",
        "/" + "a" * 300,
    ],
)
async def test_a_prefix_that_could_lead_elsewhere_is_ignored(prefix: str) -> None:
    """`Location: //evil.example/jobs/1` would be another host."""
    assert (await seen({"X-Forwarded-Prefix": prefix}))["root_path"] == ""


@pytest.mark.parametrize("scheme", ["", "ftp", "javascript", "https\t"])
async def test_a_scheme_that_is_none_is_ignored(scheme: str) -> None:
    """Only two are supported; surrounding spaces are ignored."""
    assert (await seen({"X-Forwarded-Proto": scheme}))["scheme"] == ("https" if scheme.strip() == "https" else "http")


@pytest.mark.parametrize("host", ["", "evil example", "a/b", "a@b", "[::1", "host:port"])
async def test_a_host_that_is_none_is_ignored(host: str) -> None:
    """The request's own host stays."""
    assert (await seen({"X-Forwarded-Host": host}))["host"] == ["inside:3000"]


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9, 10.0.0.8", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.9, 10.0.0.8", GATEWAY),
        ("unknown", GATEWAY),
        ("203.0.113.9, garbage", GATEWAY),
    ],
)
async def test_the_client_is_who_asked_the_first_of_our_gateways(chain: str, client: str) -> None:
    """Addresses before that one were written by the client."""
    assert (await seen({"X-Forwarded-For": chain}))["client"] == client


async def test_of_several_values_the_last_is_the_gateways_own() -> None:
    """The first one could be the client's."""
    found = await seen({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "evil.example, jobs.example.com"})
    assert (found["scheme"], found["host"]) == ("http", ["jobs.example.com"])
