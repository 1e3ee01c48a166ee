"""The tests named in docs/reliability.md and docs/security.md exist, and every row of the matrix has one."""

from __future__ import annotations

import re

import pytest

from tests.support.proxy_process import ROOT

_LAST = {"W": 6, "J": 5, "C": 7, "L": 5, "R": 6, "P": 3}
_ROWS = [f"{kind}{n}" for kind, last in _LAST.items() for n in range(1, last + 1)]
#: The text of each test file by its name; files with the same name in several folders are joined.
_FILES: dict[str, str] = {}
for _path in (ROOT / "tests").rglob("test_*.py"):
    _FILES[_path.name] = _FILES.get(_path.name, "") + _path.read_text(encoding="utf-8")


def read(name: str) -> str:
    """Return a page."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    """`file::function`, or `::function` of the file named before it."""
    source: str | None = None
    named = re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", read(page))
    for name, function in named:
        source = _FILES[name] if name else source
        assert source is not None
        assert not function or f"def {function}(" in source, (name, function)
    assert len([name for name, _ in named if name]) > 15


@pytest.mark.parametrize("row", _ROWS)
def test_every_row_has_a_promise_and_a_test_named_after_it(row: str) -> None:
    """No row is left out silently."""
    assert f"**{row}**" in read("reliability.md")
    names = re.findall(r"def (test_\w+)\(", "\n".join(_FILES.values()))
    assert [name for name in names if row.lower() in name.split("_")]
