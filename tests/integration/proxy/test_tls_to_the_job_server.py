"""TLS between a worker and the job server: whom it trusts, and what it says on failure."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.app import create_app
from jobserver.options import Options
from proxy.run.job_server_probe import path_trouble, reach
from tests.support.http import Answer, post_job, problem
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

_TLS: Final = Path(__file__).parents[2] / "support" / "tls"
_TRUSTED: Final = str(_TLS / "cert.pem")

#: One of several job servers, each with an address of its own.
_PROFILE: Final = """
name = "{name}"
[server]
url = "{url}"
[submit]
body = {{ callback = "{{callback_url}}" }}
[callback]
state = "body.state"
succeeded = ["completed"]
"""

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
def serve(aiohttp_server: AiohttpServer) -> Serve:
    """Starts a job server with or without TLS and returns its https:// address."""

    async def start(certificate: str = "cert.pem", *, host: str = "127.0.0.1", tls: bool = True) -> str:
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(_TLS / certificate, _TLS / "key.pem")
        server = await aiohttp_server(create_app(Options(duration_s=0)), ssl=context, host="0.0.0.0")  # noqa: S104 - a test's
        return f"https://{host}:{server.port}/start"

    return start


@pytest.mark.parametrize("reuse", ["1", "0"], ids=["fresh", "reused"])
@pytest.mark.parametrize("by", ["JOB_SERVER_CAFILE", "SSL_CERT_FILE"])
async def test_an_authority_of_ones_own_can_be_trusted(
    client: ClientSession, serve: Serve, by: str, reuse: str
) -> None:
    """By the setting, and by OpenSSL's own variable; with both ways of using workers."""
    settings = {"JOB_SERVER_URL": await serve(), by: _TRUSTED, "WORKER_MAX_JOBS": reuse, "WORKER_SPARES": "1"}
    with ProxyProcess.started(**settings) as proxy:
        assert [(await post_job(client, proxy.queue_job)).status for _ in range(2)] == [200, 200]
        assert all(line["level"] == "info" for line in proxy.events)


async def test_an_authority_can_be_replaced_without_a_restart(
    client: ClientSession, serve: Serve, tmp_path: Path
) -> None:
    """The next job trusts the new content of the file."""
    file = tmp_path / "ca.pem"
    shutil.copy(_TLS / "expired.pem", file)
    settings = {"JOB_SERVER_URL": await serve(), "JOB_SERVER_CAFILE": str(file), "WORKER_SPARES": "1"}
    with ProxyProcess.started(**settings) as proxy:
        problem(await post_job(client, proxy.queue_job), "job-server-unavailable", 500, "no")
        shutil.copy(_TRUSTED, file)
        assert [(await post_job(client, proxy.queue_job)).status for _ in range(2)] == [200, 200]


async def test_an_issuer_that_is_not_known_is_named_as_such(client: ClientSession, serve: Serve) -> None:
    """With the setting that helps."""
    with ProxyProcess.started(JOB_SERVER_URL=await serve(), WORKER_SPARES="1") as proxy:
        answer = await post_job(client, proxy.queue_job)
        words = "self-signed certificate; JOB_SERVER_CAFILE can name a file with its CA"
        await no_connection(proxy, answer, words)


async def test_the_reason_is_in_the_answer_and_in_the_log(client: ClientSession, serve: Serve, tmp_path: Path) -> None:
    """With the code that says that nothing was submitted; the log has it from the start on."""
    trusted = tmp_path / "trusted.pem"  # so that only the fault under test is found
    trusted.write_text(f"{Path(_TRUSTED).read_text()}{(_TLS / 'expired.pem').read_text()}", encoding="ascii")
    servers = {
        "expired": (await serve("expired.pem"), "certificate has expired"),
        "elsewhere": (
            await serve(host="127.0.0.2"),
            "IP address mismatch, certificate is not valid for '127.0.0.2'",
        ),
        "plain": (await serve(tls=False), "it does not speak TLS; is it http:// rather than https://?"),
    }
    files = [tmp_path / f"{name}.toml" for name in servers]
    for file, (url, _) in zip(files, servers.values(), strict=True):
        file.write_text(_PROFILE.format(name=file.stem, url=url), encoding="utf-8")
    settings = {"PROFILE": ",".join(map(str, files)), "JOB_SERVER_CAFILE": str(trusted), "WORKER_SPARES": "1"}
    with ProxyProcess.started(**settings) as proxy:
        for name, (_, words) in servers.items():
            await no_connection(proxy, await post_job(client, f"{proxy.queue_job}/{name}"), words)


async def no_connection(proxy: ProxyProcess, answer: Answer, words: str) -> None:
    """Check the answer to a job, and wait for a warning with the same words."""
    document = problem(answer, "job-server-unavailable", 500, "no")
    assert document["detail"].startswith("no TLS connection to the job server: ")
    assert words in document["detail"]

    def warned() -> bool:
        return any(words in line.get("reason", "") for line in proxy.events if line["level"] == "warning")

    await eventually(warned)


@pytest.fixture
def asks_for_a_certificate() -> Iterator[str]:
    """The https:// address of a server that requires a client certificate, and says so."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=_TRUSTED)
    context.load_cert_chain(_TRUSTED, _TLS / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    accepted, _ = listener.accept()
                    with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as client:
                        with suppress(ssl.SSLError):
                            client.do_handshake()
                        socket.socket.shutdown(client, socket.SHUT_WR)
                        while socket.socket.recv(client, 4096):  # a reset would discard the server's alert
                            pass

        thread = threading.Thread(target=refuse)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/start"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_a_job_server_that_asks_for_a_client_certificate_is_called_that(
    client: ClientSession, asks_for_a_certificate: str
) -> None:
    """With TLS 1.3 it says so only after the handshake: the check sees it when it asks, a job in place of the reply."""
    words = "it asks for a client certificate, and the proxy has none"
    assert await reach(asks_for_a_certificate, 10, _TRUSTED) == ""
    assert await path_trouble(asks_for_a_certificate, 10, _TRUSTED) == f"ends each connection: {words}"
    settings = {"JOB_SERVER_URL": asks_for_a_certificate, "JOB_SERVER_CAFILE": _TRUSTED, "LOST_REPLY_WAIT": "0"}
    with ProxyProcess.started(**settings, WORKER_SPARES="1") as proxy:
        answer = problem(await post_job(client, proxy.queue_job), "job-server-unavailable", 500, "unknown")
    assert words in answer["detail"]
