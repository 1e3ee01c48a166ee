"""Exactly the lines that the proxy can log are in docs/on-call.md, with their levels."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_LOGGING = {"event", "job_event"}
#: Messages of workers, which are not constants in the front end.
_COMPOSED = {"worker ended by …": "error", "unhandled exception in a worker": "error"}


def logged() -> dict[str, str]:
    """The level of each line, from the calls in the source."""
    lines = {}
    for path in (_ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if name in _LOGGING and len(node.args) > 1:
                    level, what = (arg.value if isinstance(arg, ast.Constant) else None for arg in node.args[:2])
                    if isinstance(what, str) and isinstance(level, str):
                        lines[what] = level
    return lines


def documented() -> dict[str, str]:
    """The table of log lines."""
    page = (_ROOT / "docs" / "on-call.md").read_text(encoding="utf-8")
    table = page.split("\n## Log lines\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`{1,2}) ?(.+?) ?\1 \| ([a-z]+) \|", table, re.MULTILINE)
    return {what: level for _, what, level in rows}


def test_every_log_line_is_documented_with_its_level() -> None:
    """If a line is reworded, the table has to be updated."""
    assert logged()
    assert documented() == logged() | _COMPOSED
