"""A quarantine is visible, has a date and a reason, and can be lifted for a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy_process import ROOT
from tests.support.waiting import IN_VAIN_S

_CONFTEST = "from tests.support.quarantine import hold_back as pytest_collection_modifyitems\n"


def run(folder: Path, mark: str, *arguments: str) -> tuple[int, str]:
    """Run one failing test with this mark; return the exit code and pytest's output."""
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra --strict-markers\nmarkers = quarantine: flakes\n")
    (folder / "test_it.py").write_text(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it(): assert False\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pytest.ini", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=IN_VAIN_S,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_test_in_quarantine_is_skipped_and_listed_with_date_and_reason(tmp_path: Path) -> None:
    """The summary shows it."""
    code, said = run(tmp_path, 'quarantine(date="2026-01-31", reason="it flakes")')
    assert code == 0
    assert "1 skipped" in said
    assert "in quarantine since 2026-01-31: it flakes" in said


def test_whoever_asks_for_them_runs_them(tmp_path: Path) -> None:
    """With `-m quarantine`."""
    code, said = run(tmp_path, 'quarantine(date="2026-01-31", reason="it flakes")', "-m", "quarantine")
    assert code == 1
    assert "1 failed" in said


@pytest.mark.parametrize(
    "mark",
    ["quarantine", 'quarantine(date="2026-01-31")', 'quarantine(date="soon", reason="x")', 'quarantine("2026-01-31")'],
)
def test_a_quarantine_without_a_date_or_a_reason_ends_the_run(tmp_path: Path, mark: str) -> None:
    """No test is left out silently."""
    code, said = run(tmp_path, mark)
    assert code == 4
    assert "quarantine" in said
