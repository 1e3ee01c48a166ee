"""The pages and `.env` against the code: a setting or a code that is added, changed or dropped shows here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from decouple import RepositoryEnv

from proxy.http import problems
from shared.errors import Code
from shared.settings import load, variables

_ROOT = Path(__file__).resolve().parents[3]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_ENV = _ROOT / ".env"


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table under `heading` in the README: the name in the first column, and the other columns."""
    section = _README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    """Neither more nor fewer, in the order of the code, each with a meaning."""
    table = rows("Settings")
    assert list(table) == list(variables())
    assert {name: default.strip("`") for name, (default, _) in table.items()} == {
        name: default for name, (default, _) in variables().items()
    }
    assert all(meaning for _, meaning in table.values())


def test_every_setting_stands_in_dot_env_with_its_default() -> None:
    """Neither more nor fewer."""
    given = RepositoryEnv(str(_ENV)).data
    assert given == {name: default for name, (default, _) in variables().items()}


def test_every_setting_in_dot_env_has_a_comment() -> None:
    """A block of settings opens with a comment that says what they are for."""
    blocks = [block.splitlines() for block in re.split(r"\n\n+", _ENV.read_text(encoding="utf-8").strip())]
    assert all(block[0].startswith("#") for block in blocks)


def test_dot_env_changes_nothing() -> None:
    """Who deletes the file has the same settings."""
    assert load({}, _ENV) == load({})


@pytest.mark.parametrize("code", Code)
def test_every_code_stands_in_the_readme_with_its_status(code: Code) -> None:
    """With its status where GRANULAR_ERRORS is off and where it is on."""
    status, granular, when = rows("Answers")[code]
    entry = problems.TABLE[code]
    assert (int(status), int(granular)) == (entry.status, entry.granular)
    assert when


def test_the_readme_knows_no_other_codes() -> None:
    """A code that is gone leaves the table too."""
    assert set(rows("Answers")) == set(Code)


def test_every_route_stands_in_the_readme() -> None:
    """Each path that the front end serves, but for the dashboard's own files."""
    source = "".join(path.read_text(encoding="utf-8") for path in (_ROOT / "proxy").rglob("*.py"))
    paths = {path.replace("{", "<").replace("}", ">") for path in re.findall(r"\bRoute\(\"(/[^\"]*)\"", source)}
    section = _README.split("\n## Routes\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(?:[A-Z]+ )?(/[^` ]*)`", section))
    assert len(paths) > 10
    assert paths == named
