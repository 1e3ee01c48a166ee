"""The program's version is the newest release in the changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from shared.version import VERSION, commit

_ROOT: Final = Path(__file__).resolve().parents[3]


def test_the_version_is_the_newest_release_of_the_changelog() -> None:
    """A release is one heading and one line of code, always both."""
    releases = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$",
        (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert releases[0] == VERSION
    assert releases == sorted(releases, key=lambda it: tuple(map(int, it.split("."))), reverse=True)


@pytest.mark.parametrize("is_worktree", [False, True])
def test_the_commit_of_a_checkout_is_the_last_one_in_its_log(tmp_path: Path, *, is_worktree: bool) -> None:
    """Without git, which a machine that runs the proxy may not have."""
    git = tmp_path / ("elsewhere" if is_worktree else ".git")
    (git / "logs").mkdir(parents=True)
    if is_worktree:
        (tmp_path / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    line = "{0:040x} {1:040x} Somebody <a@b.example> 1795900000 +0000\tcommit: words\n"
    (git / "logs" / "HEAD").write_text("".join(line.format(n, n + 1) for n in range(100)), encoding="utf-8")
    assert commit(tmp_path) == "0" * 12
    (git / "logs" / "HEAD").write_text(line.format(7, 0xABC << 148), encoding="utf-8")
    assert commit(tmp_path) == "abc000000000"


@pytest.mark.parametrize("text", ["", "\n", "one"])
def test_what_is_no_checkout_has_no_commit(tmp_path: Path, text: str) -> None:
    """An image, an archive, or a log that says nothing."""
    assert commit(tmp_path) == ""
    (tmp_path / ".git" / "logs").mkdir(parents=True)
    (tmp_path / ".git" / "logs" / "HEAD").write_text(text, encoding="utf-8")
    assert commit(tmp_path) == ""
