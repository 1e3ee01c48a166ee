"""The program's version is the newest release in the changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from shared.version import VERSION

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
