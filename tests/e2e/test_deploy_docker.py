"""deploy/Dockerfile, without an engine: the copied files are enough to run, and its health check works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.run.process import HARD_STOP_S
from shared.settings import load, variables
from tests.support.proxy_process import ROOT, environment
from tests.support.waiting import IN_VAIN_S, eventually_blocking

TEXT = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
#: The stage that becomes the image, with continued lines joined.
STAGE = re.sub(r"\\\n", "", TEXT).rpartition("\nFROM ")[2]

#: The users of a fresh Debian (base-passwd, apt).
DEBIANS_USERS = re.compile(
    "root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|gnats|_apt|nobody"
)


def copied() -> list[str]:
    """Return what the image gets from the project."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", STAGE, re.MULTILINE)
    return [name for line in lines for name in line.split()]


def image_settings() -> dict[str, str]:
    """Return the settings of the ENV line."""
    (line,) = re.findall(r"^ENV (.+)$", STAGE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def health_check() -> list[str]:
    """Return the command of HEALTHCHECK."""
    (line,) = re.findall(r"^HEALTHCHECK .*CMD (\[.+\])$", STAGE, re.MULTILINE)
    command: list[str] = json.loads(line)
    return command


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the image has in /app, and nothing else."""
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / "app" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / "app").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "app" / name)
    return tmp_path / "app"


@pytest.fixture
def container(image: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A proxy that runs on the image's files and settings; its address and its process."""
    settings = image_settings() | {"JOURNAL": str(tmp_path / "jobs.sqlite3"), "PORT": "0"}
    # Only loopback in a test.
    env = environment(**(settings | {"HOST": "127.0.0.1"}))
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as stderr:
        command = [sys.executable, str(image / "run.py")]
        process = subprocess.Popen(command, cwd=image, env=env, stdout=subprocess.DEVNULL, stderr=stderr, text=True)
    try:
        eventually_blocking(lambda: process.poll() is not None or '"listening"' in log.read_text(encoding="utf-8"), 20)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        found = re.search(r'"public": "(http://[^"]+)"', log.read_text(encoding="utf-8"))
        assert found
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def test_what_the_image_has_is_enough_to_run_and_to_be_healthy(
    container: tuple[str, subprocess.Popen[str]],
) -> None:
    """The proxy starts, the image's own check sees its health, and SIGTERM ends it with 0."""
    url, process = container
    port = url.rpartition(":")[2]
    env = environment(PORT=port)
    check = [sys.executable, *health_check()[1:]]
    for settings in (env, environment(PORT="", CALLBACK_PORT=port)):  # the latter: jobs come from the queue only
        assert subprocess.run(check, env=settings, timeout=IN_VAIN_S, check=False).returncode == 0
    process.terminate()
    assert process.wait(IN_VAIN_S) == 0
    assert subprocess.run(check, env=env, timeout=IN_VAIN_S, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_every_setting_of_the_image_is_one_and_fits() -> None:
    """Fails if a setting was renamed."""
    python_own = {"PYTHONDONTWRITEBYTECODE"}
    settings = image_settings()
    assert settings.keys() - python_own < variables().keys()
    load(settings)


def test_the_image_holds_no_root_and_runs_as_somebody_else() -> None:
    """USER comes before the command. It is a user that the image makes: `useradd` fails for one that Debian has."""
    (user,) = re.findall(r"^USER (\w+)$", STAGE, re.MULTILINE)
    assert STAGE.index(f"\nUSER {user}\n") < STAGE.index("\nENTRYPOINT ")
    assert f"--uid 10001 {user} " in STAGE
    assert not DEBIANS_USERS.fullmatch(user)


def test_everything_that_is_copied_passes_the_ignore_file() -> None:
    """And nothing else does."""
    lines = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == {*copied(), "requirements.txt"}


def test_docker_waits_long_enough_for_a_drain() -> None:
    """The example's --stop-timeout is above a drain's longest duration."""
    (seconds,) = re.findall(r"--stop-timeout (\d+)", TEXT)
    assert int(seconds) > load({}).job_timeout + HARD_STOP_S + 2
