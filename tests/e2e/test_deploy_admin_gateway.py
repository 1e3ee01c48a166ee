"""deploy/nginx-admin.conf in front of the admin address: TLS, a path prefix, and who the operator is."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, CookieJar, TCPConnector
from yarl import URL

from cluster import nginx
from tests.support.gateways import Gateway, running_admin
from tests.support.http import Answer, fetch
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies

pytestmark = pytest.mark.skipif(not nginx.is_installed(), reason="there is no nginx here")

_ACT: Final = "act-0123456789abcdef"


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else gets."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@pytest.fixture
async def browser() -> AsyncIterator[ClientSession]:
    """A client that keeps cookies like a browser, also for IP addresses."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with ClientSession(connector=TCPConnector(ssl=context), cookie_jar=CookieJar(unsafe=True)) as session:
        yield session


def proxy_with(proxies: SharedProxies, **settings: str) -> ProxyProcess:
    """Return a proxy with the settings of the file's comment."""
    return proxies.get(TRUSTED_PROXIES="127.0.0.1", ADMIN_NAMES="ops.example.com", **settings)


async def click(
    browser: ClientSession, gateway: Gateway, page: str, link: str, method: str = "GET", **more: Any
) -> Answer:
    """Follow a relative link of a page, or send its form."""
    url = urljoin(f"{gateway.url}/proxy/{page}", link)
    assert url.startswith(f"{gateway.url}/proxy/")
    headers = {"Accept": "text/html"} | ({"Origin": gateway.url} if method == "POST" else {}) | more.pop("headers", {})
    return await fetch(browser, method, url, headers=headers, **more)


async def test_below_a_prefix_and_over_tls_a_browser_logs_in_acts_and_logs_out(
    browser: ClientSession, proxies: SharedProxies, job_server: JobServer, port: int, tmp_path: Path
) -> None:
    """Only by links and forms of the pages; the cookie is limited to this path and to TLS."""
    proxy = proxy_with(proxies, ADMIN_KEYS=f"anna:act:{_ACT}")
    with running_admin(port, proxy.admin, tmp_path) as gateway:
        sent = await click(browser, gateway, "", "")
        assert (sent.status, sent.headers["Location"]) == (303, "/proxy/login")
        form = await click(browser, gateway, "", "login")
        assert form.status == 200
        assert (await click(browser, gateway, "login", "static/style.css")).status == 200
        wrong = await click(browser, gateway, "login", "", "POST", data={"key": "wrong"})
        assert wrong.status == 401
        logged_in = await click(browser, gateway, "login", "", "POST", data={"key": _ACT})
        assert (logged_in.status, logged_in.headers["Location"]) == (303, "/proxy/")
        assert "; Path=/proxy/;" in logged_in.headers["Set-Cookie"]
        assert logged_in.headers["Set-Cookie"].endswith("; Secure")
        assert (await click(browser, gateway, "", "")).status == 200
        assert (await click(browser, gateway, "", "session")).document["name"] == "anna"
        page = {"X-Requested-By": "dashboard", "Sec-Fetch-Site": "same-origin"}
        problem_below(await click(browser, gateway, "", "jobs/none/stop", "POST", headers=page), "not-found", 404)
        foreign = page | {"Origin": "https://evil.example"}
        problem_below(await click(browser, gateway, "", "jobs/none/stop", "POST", headers=foreign), "forbidden", 403)
        cookie = browser.cookie_jar.filter_cookies(URL(f"{gateway.url}/proxy/"))
        assert (await click(browser, gateway, "", "logout", "POST")).headers["Location"] == "/proxy/login"
        replayed = {"Cookie": "; ".join(f"{name}={it.value}" for name, it in cookie.items())}
        assert (await click(browser, gateway, "", "session", headers=replayed | {"Accept": "*/*"})).status == 401


async def test_nginx_says_who_the_operator_is_whatever_its_clients_say(
    browser: ClientSession, proxies: SharedProxies, job_server: JobServer, port: int, tmp_path: Path
) -> None:
    """The client's own header is replaced, and without a password nobody gets through."""
    proxy = proxy_with(
        proxies,
        ADMIN_USER_HEADER="X-Forwarded-User",
        ADMIN_TRUSTED_PEERS="127.0.0.1",
        ADMIN_ACTING_USERS="anna",
    )
    users = tmp_path / "operators"
    users.write_text("".join(f"{name}:{_hashed('secret')}\n" for name in ("anna", "ben")), encoding="ascii")
    users.chmod(0o644)
    with running_admin(port, proxy.admin, tmp_path, users) as gateway:
        claims = {"X-Forwarded-User": "anna"}
        assert (await click(browser, gateway, "", "session", headers=claims)).status == 401
        for name, role in (("anna", "act"), ("ben", "look")):
            auth = {"Authorization": "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()}
            session = await click(browser, gateway, "", "session", headers=claims | auth)
            assert (session.document["name"], session.document["role"]) == (name, role)
            page = {"X-Requested-By": "dashboard"} | auth
            stopped = await click(browser, gateway, "", "jobs/none/stop", "POST", headers=page)
            assert stopped.status == (404 if role == "act" else 403)


def problem_below(answer: Answer, code: str, status: int) -> None:
    """Check that an answer is a problem document that refers to the prefix."""
    assert (answer.status, answer.document["code"]) == (status, code)
    assert answer.document["type"] == f"/proxy/problems/{code}"


def _hashed(password: str) -> str:
    command = ["openssl", "passwd", "-apr1", "-stdin"]
    return subprocess.run(command, input=password, capture_output=True, check=True, text=True).stdout.strip()
