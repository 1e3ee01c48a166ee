"""`make run` on a machine that lacks something says so in one line, and works once it is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.proxy_process import ROOT
from tests.support.waiting import IN_VAIN_S

#: Debian's python3 without the package python3-venv: it makes half of an environment, and fails.
_WITHOUT_VENV: Final = """\
#!/bin/sh
for argument in "$@"; do
    case "$argument" in
    *ensurepip*) exit 1 ;;
    venv)
        for folder in "$@"; do :; done
        mkdir -p "$folder/bin" && ln -s {python} "$folder/bin/python"
        exit 1 ;;
    esac
done
exec {python} "$@"
"""
#: Makes environments without installing pip, which takes seconds: there is only something to import.
_QUICK: Final = """\
#!/bin/sh
for last in "$@"; do :; done
case "$*" in
"-m venv "*) {python} "$@" --without-pip && cd "$last"/lib/python3*/site-packages && mkdir pip ;;
*) exec {python} "$@" ;;
esac
"""


def program(path: Path, text: str) -> Path:
    """Write a script that calls this interpreter as `{python}`; return its path."""
    path.write_text(text.replace("{python}", sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def half_a_python(tmp_path: Path) -> Path:
    """An interpreter that cannot make environments."""
    return program(tmp_path / "python3", _WITHOUT_VENV)


@pytest.fixture
def quick_python(tmp_path: Path) -> Path:
    """An interpreter that makes environments quickly."""
    return program(tmp_path / "python3", _QUICK)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make` without the downloads."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments, "INSTALL=:"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * IN_VAIN_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_python_that_cannot_make_environments_is_one_line(half_a_python: Path, tmp_path: Path) -> None:
    """It names the package; nothing is left behind that would cause trouble later."""
    venv = tmp_path / "venv"
    ended = make(f"PYTHON={half_a_python}", f"VENV={venv}", f"{venv}/.run-stamp")
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    words = "cannot make virtual environments. Debian, Ubuntu: apt install python3-venv. Then run make again."
    assert said == [f"{half_a_python} {words}"]
    assert not venv.exists()


@pytest.mark.parametrize("stamp", [".run-stamp", ".dev-stamp"])
def test_half_an_environment_is_made_again(tmp_path: Path, quick_python: Path, stamp: str) -> None:
    """The rest of an earlier attempt, before the package was installed: an interpreter without pip."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    ended = make(f"PYTHON={quick_python}", f"VENV={venv}", f"{venv}/{stamp}")
    assert ended.returncode == 0, ended.stderr
    assert f"{venv} has no pip; making it again" in ended.stderr
    assert subprocess.run([venv / "bin" / "python", "-c", "import pip"], check=False).returncode == 0
    assert (venv / stamp).exists()


def test_an_environment_whose_interpreter_is_gone_is_made_again_and_then_left_alone(tmp_path: Path) -> None:
    """As when the system's Python was replaced by a newer one. The installed packages are removed as well."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    (venv / ".run-stamp").touch()
    arguments = (f"PYTHON={sys.executable}", f"VENV={venv}", f"{venv}/.run-stamp")
    ended = make(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert subprocess.run([venv / "bin" / "python", "-c", "import pip"], check=False).returncode == 0
    assert "Installing requirements.txt" in ended.stderr
    again = make(*arguments)
    assert again.returncode == 0
    assert "Installing" not in again.stderr
