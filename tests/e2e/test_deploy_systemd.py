"""deploy/async-job-proxy.service: what systemd's own tools say about it, and whether its figures fit the proxy's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.run.check import descriptors_needed
from proxy.run.process import HARD_STOP_S
from shared.settings import load
from tests.support.proxy_process import ROOT
from tests.support.waiting import IN_VAIN_S

UNIT = ROOT / "deploy" / "async-job-proxy.service"
INSTALLED = "/opt/async-job-proxy"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit for a proxy that is installed where these tests are: only the folder is replaced."""
    text = UNIT.read_text(encoding="utf-8")
    python = f"{INSTALLED}/.venv/bin/python"
    assert f"ExecStart={python} {INSTALLED}/run.py" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(python, sys.executable).replace(INSTALLED, str(ROOT)), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which needs no running systemd for this."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=IN_VAIN_S, check=False)


def value(name: str) -> str:
    """Return the value of a line of the unit, which has one such line."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def test_systemd_finds_nothing_wrong(here: Path) -> None:
    """Every name is known, every value is valid, the command exists."""
    verified = analyze("verify", "--man=no", str(here))
    assert verified.stdout + verified.stderr == ""
    assert verified.returncode == 0


def test_systemd_finds_little_exposed(here: Path) -> None:
    """2.5 of 10 or less: this fails if a line is dropped by accident."""
    judged = analyze("security", "--offline=yes", "--threshold=25", str(here))
    assert judged.returncode == 0, judged.stdout[-200:]


def test_systemd_does_not_give_up() -> None:
    """A start that fails takes less than a second, and a failover of the database much more than five starts."""
    assert value("StartLimitIntervalSec") == "0"


def test_the_proxy_has_the_time_it_may_take_to_drain() -> None:
    """The only processes that systemd kills are those that a drain failed to end."""
    settings = load({})
    assert int(value("TimeoutStopSec").removesuffix("s")) > settings.job_timeout + HARD_STOP_S + 2


def test_the_limits_fit_the_default_number_of_jobs() -> None:
    """Descriptors and tasks for MAX_JOBS and the spares, with as many threads as processes."""
    settings = load({})
    assert int(value("LimitNOFILE")) >= descriptors_needed(settings)
    assert int(value("TasksMax")) >= 2 * (settings.max_jobs + settings.worker_spares) + 100


def test_it_waits_for_what_the_proxy_says() -> None:
    """For longer than it takes until the log's first line about a stuck loop; no core dump that contains keys."""
    assert value("Type") == "notify"
    assert int(value("WatchdogSec").removesuffix("s")) > 10
    assert value("WatchdogSignal") == "SIGKILL"


def test_what_would_end_the_drain_early_is_not_set() -> None:
    """SIGTERM goes to the front end only, and a worker out of memory does not end the service."""
    assert value("KillMode") == "mixed"
    assert value("OOMPolicy") == "continue"
    assert value("RestartPreventExitStatus") == "2"
