"""Real job servers, installed by pip: each is a process in an environment of its own (`make servers`)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

import pytest

from shared.job_server import loader
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.waiting import eventually_blocking

PROGRAMS: Final = Path(__file__).parent / "programs"
_START_S: Final = 90.0
_LOOK_S: Final = 0.1


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


def is_installed(name: str) -> bool:
    """Return whether `make servers` has installed this one."""
    return (ROOT / ".servers" / name / ".stamp").exists()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _answers(url: str, ready: bytes) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own address
            return ready in response.read()
    except urllib.error.HTTPError:
        return not ready
    except OSError:
        return False


class Running:
    """A job server's process."""

    def __init__(self, name: str, folder: Path, callback_port: int) -> None:
        """Start it."""
        self._server, self._folder = SERVERS[name], folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        python = ROOT / ".servers" / name / "bin" / "python"
        environment = {
            **os.environ,
            **self._server.environment,
            "PORT": str(port),
            "CALLBACK": f"http://127.0.0.1:{callback_port}{loader.load(self._server.profile).callback.path}",
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "DATABASE_URL": f"sqlite:///{folder / 'jobs.db'}",
        }
        with (folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [python, *(argument.replace("{port}", str(port)) for argument in self._server.arguments)],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it answers its probe."""

        def is_there() -> bool:
            assert self._process.poll() is None, (self._folder / "output").read_text(encoding="utf-8")
            return _answers(self.url + self._server.probe, self._server.ready)

        eventually_blocking(is_there, _START_S, every_s=_LOOK_S)

    def end(self) -> None:
        """Kill it, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()


class Ignoring(BaseHTTPRequestHandler):
    """Accepts every callback and ignores it."""

    def do_POST(self) -> None:
        """Accept it."""
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class OneProxy:
    """A proxy for all job servers: one at a time, because some have the callback's address in their configuration."""

    def __init__(self, servers: dict[str, str], folder: Path, callback_port: int, deaf: str) -> None:
        """`servers`: the addresses of those that are installed."""
        self.servers = servers
        #: The journal of the proxy that runs.
        self.journal = ""
        self._folder = folder
        self._port = str(callback_port)
        self._deaf = deaf
        self._settings: dict[str, str] = {}
        self._proxy: ProxyProcess | None = None

    def serving(self, name: str, *, deaf: bool = False, **settings: str) -> ProxyProcess:
        """Return the proxy with these settings: the one that runs, or a new one; skip if this server is not installed.

        With `deaf`, the callbacks are lost, and the proxy asks about jobs twice a second.
        """
        if name not in self.servers:
            pytest.skip(f"{name} is not installed: make servers")
        settings |= {"PORT": "0", "CALLBACK_URL": self._deaf} if deaf else {"PORT": self._port}
        settings |= {"PROFILE": ",".join(self._profiles(asks_soon=deaf)), "WORKER_SPARES": "2"}
        self.journal = str(self._folder / f"{'deaf' if deaf else 'hears'}.sqlite3")
        settings |= {"JOURNAL": self.journal}
        if self._proxy is None or self._proxy.returncode is not None or settings != self._settings:
            self.end()
            self._proxy, self._settings = ProxyProcess.started(**settings), settings
        return self._proxy

    def end(self) -> None:
        """End the proxy."""
        if self._proxy is not None:
            self._proxy.__exit__()

    def _profiles(self, *, asks_soon: bool) -> Iterator[str]:
        for name, url in self.servers.items():
            profile = SERVERS[name].profile
            text = loader.path_of(profile).read_text(encoding="utf-8")
            text = re.sub(r"(?m)^(\[server\]\nurl = ).*$", rf'\1"{url}"', text)
            if asks_soon:
                text = re.sub(r"(?m)^(after|every) = .*\n", "", text)
                text = re.sub(r"(?m)^\[status\].*$", "[status]\nafter = 0.5\nevery = 0.5", text)
            file = self._folder / f"{profile}{'-asks-soon' if asks_soon else ''}.toml"
            file.write_text(text, encoding="utf-8")
            yield str(file)
