"""The machine that a run was made on."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.processes import ROOT

__all__ = ["allow_many_connections", "describe"]


def allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one, for us and for our child processes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe() -> dict[str, str]:
    """Return what a reader needs to judge the figures."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Node.js": _output("node", "--version") or "not installed",
        "Erlang/OTP": _output("erl", "-noshell", "-eval", _RELEASE) or "not installed",
        "libraries": ", ".join(
            f"{name} {version(name)}" for name in ("Hypercorn", "starlette", "aiohttp", "uvloop", "Pebble")
        ),
        "commit": _output("git", "describe", "--always", "--dirty") or "unknown",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


#: Erlang code that prints the release of Erlang/OTP.
_RELEASE: Final = 'io:format("~s", [erlang:system_info(otp_release)]), halt().'


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
