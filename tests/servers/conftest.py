"""Real job servers, installed by pip: each is a process in an environment of its own (`make servers`)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shared.job_server import loader
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.waiting import eventually_blocking

PROGRAMS: Final = Path(__file__).parent / "programs"
_START_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class RealServer:
    """How a job server is started."""

    #: The profile that speaks its protocol.
    profile: str
    arguments: tuple[str, ...]
    #: The path that is polled until the server is ready, and what the answer then contains.
    probe: str
    ready: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


SERVERS: Final = {
    "cog": RealServer(
        "cog",
        ("-m", "cog.server.http", "--host", "127.0.0.1"),
        "/health-check",
        b'"READY"',
        {"COG_PREDICT_TYPE_STUB": f"{PROGRAMS / 'predict.py'}:Predictor"},
    ),
    "ckan": RealServer("ckanserviceprovider", (str(PROGRAMS / "ckan_service.py"),), "/status"),
    "runpod": RealServer(
        "runpod-local",
        (
            str(PROGRAMS / "runpod_handler.py"),
            "--rp_serve_api",
            "--rp_api_host",
            "127.0.0.1",
            "--rp_api_port",
            "{port}",
        ),
        "/openapi.json",
    ),
    "a2a": RealServer("a2a", (str(PROGRAMS / "a2a_agent.py"),), "/tasks/none"),
    "pygeoapi": RealServer("ogc-processes", (str(PROGRAMS / "pygeoapi_server.py"),), "/processes?f=json"),
    "langgraph": RealServer("langgraph", (str(PROGRAMS / "langgraph_server.py"),), "/ok"),
    "buildbot": RealServer("buildbot", (str(PROGRAMS / "buildbot_master.py"),), "/api/v2/builders", b'"builder"'),
}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def callback_port() -> int:
    """The proxy's port, for job servers that have the callback URL in their configuration."""
    return _free_port()


def _answers(url: str, ready: bytes) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own address
            return ready in response.read()
    except urllib.error.HTTPError:
        return not ready
    except OSError:
        return False


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory, callback_port: int) -> Iterator[Callable[[str], str]]:
    """Start a job server, once for all tests, and return its address."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:

        def start(name: str) -> str:
            if name not in urls:
                urls[name] = stack.enter_context(_running(name, tmp_path_factory.mktemp(name), callback_port))
            return urls[name]

        yield start


class _running:  # noqa: N801 - used as a function
    def __init__(self, name: str, folder: Path, callback_port: int) -> None:
        self._server, self._folder = SERVERS[name], folder
        self._callback = f"http://127.0.0.1:{callback_port}{loader.load(self._server.profile).callback.path}"
        self._python = ROOT / ".servers" / name / "bin" / "python"

    def __enter__(self) -> str:
        port = _free_port()
        environment = {
            **os.environ,
            **self._server.environment,
            "PORT": str(port),
            "CALLBACK": self._callback,
            "PATH": f"{self._python.parent}:{os.environ['PATH']}",
            "DATABASE_URL": f"sqlite:///{self._folder / 'jobs.db'}",
        }
        arguments = [argument.replace("{port}", str(port)) for argument in self._server.arguments]
        self._output = (self._folder / "output").open("wb")
        self._process = subprocess.Popen(
            [self._python, *arguments],
            env=environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"

        def is_there() -> bool:
            assert self._process.poll() is None, (self._folder / "output").read_text(encoding="utf-8")
            return _answers(url + self._server.probe, self._server.ready)

        eventually_blocking(is_there, _START_S)
        return url

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._output.close()


@pytest.fixture
def settings_for(
    start_server: Callable[[str], str], tmp_path: Path, callback_port: int
) -> Callable[..., dict[str, str]]:
    """Return the settings of a proxy for a real job server; with `asks_soon`, it asks about jobs twice a second."""

    def settings(name: str, *, asks_soon: bool = False) -> dict[str, str]:
        if not (ROOT / ".servers" / name / ".stamp").exists():
            pytest.skip(f"{name} is not installed: make servers")
        profile = SERVERS[name].profile
        text = loader.path_of(profile).read_text(encoding="utf-8")
        if asks_soon:
            text = re.sub(r"(?m)^(after|every) = .*\n", "", text)
            text = re.sub(r"(?m)^\[status\].*$", "[status]\nafter = 0.5\nevery = 0.5", text)
        file = tmp_path / f"{profile}.toml"
        file.write_text(text, encoding="utf-8")
        fixed = {"PORT": str(callback_port)} if loader.parse(text).callback.path else {}
        return fixed | {
            "PROFILE": str(file),
            "JOB_SERVER_URL": start_server(name),
            "JOURNAL": str(tmp_path / "jobs.sqlite3"),
            "WORKER_SPARES": "2",
        }

    return settings


@pytest.fixture
async def deaf(aiohttp_server: Callable[..., Awaitable[TestServer]]) -> str:
    """An address that accepts every callback and ignores it."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", take)
    server = await aiohttp_server(app)
    return str(server.make_url("/callback"))


@pytest.fixture
def start_proxy() -> Iterator[Callable[..., ProxyProcess]]:
    """Start a proxy that ends with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(ProxyProcess.started(**settings))
