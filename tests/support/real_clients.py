"""Unmodified HTTP clients of others: each posts the same job repeatedly, with pauses."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.proxy_process import ROOT

__all__ = ["CLIENTS", "GO", "Reply", "post_with", "require"]

_FOLDER: Final = ROOT / "tests" / "e2e" / "clients"
#: This one has to be compiled before, which takes too long for a test.
GO: Final = "Go net/http"
_GO_CLIENT: Final = ROOT / ".clients" / "go" / "client"
#: Compile less, and with one thread: a program that runs for seconds gains nothing by it.
_QUICK_JAVA: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client got."""

    status: int
    version: str
    document: Any


def _script(*command: str) -> Callable[[str, str, Sequence[int]], list[str]]:
    def call(url: str, body: str, pauses_ms: Sequence[int]) -> list[str]:
        return [*command, url, body, ",".join(map(str, pauses_ms))]

    return call


def _curl(url: str, body: str, pauses_ms: Sequence[int]) -> list[str]:
    """Return one curl for all requests, which keeps its connection. It cannot pause, but sends as many requests."""
    one = ["-s", "-d", body, "-H", "Content-Type: application/json", "-w", "\n%{http_code} %{http_version}\n", url]
    command = ["curl"]
    for n in range(len(pauses_ms)):
        command += ["--next"] * bool(n) + one
    return command


#: Name -> the program that it needs, and its command line.
CLIENTS: Final[dict[str, tuple[str, Callable[[str, str, Sequence[int]], list[str]]]]] = {
    "curl": ("curl", _curl),
    GO: (str(_GO_CLIENT), _script(str(_GO_CLIENT))),
    "Java HttpClient": ("java", _script("java", *_QUICK_JAVA, str(_FOLDER / "Client.java"))),
    "Node agent": ("node", _script("node", str(_FOLDER / "node_agent.mjs"))),
    "Node fetch": ("node", _script("node", str(_FOLDER / "node_fetch.mjs"))),
    "requests": (sys.executable, _script(sys.executable, str(_FOLDER / "python_requests.py"))),
    "httpx": (sys.executable, _script(sys.executable, str(_FOLDER / "python_httpx.py"))),
}


def require(name: str) -> None:
    """Fail if the client is not installed; for Go, which is large, skip the test."""
    program, _ = CLIENTS[name]
    if name == GO and not _GO_CLIENT.exists():
        pytest.skip("Go's client is not built: make clients")
    assert shutil.which(program) or Path(program).exists(), f"{program} is not installed (.ci/run installs it)"


async def post_with(
    name: str, url: str, job: dict[str, object], pauses_ms: Sequence[int], *arguments: str
) -> list[Reply]:
    """Post `job` once after each pause; return the replies. Fails if the client does."""
    require(name)
    _, call = CLIENTS[name]
    process = await asyncio.create_subprocess_exec(
        *call(url, json.dumps(job), pauses_ms),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    lines = output.decode().splitlines()
    if name == "curl":
        pairs = [(*told.split(), body) for body, told in zip(lines[::2], lines[1::2], strict=True)]
    else:
        pairs = [tuple(line.split(" ", 2)) for line in lines]
    return [Reply(status=int(status), version=version, document=json.loads(body)) for status, version, body in pairs]
