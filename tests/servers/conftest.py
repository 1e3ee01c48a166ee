"""Fixtures for tests with real job servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest

from tests.servers.support import SERVERS, Ignoring, OneProxy, Running, free_port, is_installed


@pytest.fixture(scope="session")
def callback_port() -> int:
    """The proxy's port, for job servers that have the callback URL in their configuration."""
    return free_port()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, callback_port: int) -> Iterator[dict[str, str]]:
    """The addresses of all job servers that are installed; they start at the same time."""
    with ExitStack() as stack:
        running = {}
        for name in SERVERS:
            if is_installed(name):
                running[name] = Running(name, tmp_path_factory.mktemp(name), callback_port)
                stack.callback(running[name].end)
        for server in running.values():
            server.wait_until_ready()
        yield {name: server.url for name, server in running.items()}


@pytest.fixture(scope="session")
def deaf() -> Iterator[str]:
    """An address that accepts every callback and ignores it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ignoring) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/callback"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def one_proxy(
    servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory, callback_port: int, deaf: str
) -> Iterator[OneProxy]:
    """The proxy of these tests."""
    proxy = OneProxy(servers, tmp_path_factory.mktemp("proxy"), callback_port, deaf)
    yield proxy
    proxy.end()
