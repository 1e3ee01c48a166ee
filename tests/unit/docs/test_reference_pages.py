"""Settings and codes in the pages match the code: generated pages are complete, the README's excerpt is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from decouple import RepositoryEnv

from proxy.api.clients.answers import status_document
from proxy.http import problems
from shared.errors import Code
from shared.settings import load, variables
from tests.support.records import finished
from tools import generate_codes, generate_routes, generate_settings

_ROOT = Path(__file__).resolve().parents[3]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_ENV = _ROOT / ".env"


def rows(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables, by the first column."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    return {first.strip("`"): rest for first, *rest in cells}


def section(heading: str) -> str:
    """A section of the README."""
    return _README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_every_setting_has_a_row_with_its_default_and_meaning() -> None:
    """Exactly, in the order of the code."""
    table = rows(generate_settings.page())
    assert list(table) == list(variables())
    for name, (default, takes, meaning) in table.items():
        assert default.strip("`") == variables()[name].default
        assert takes
        assert meaning.endswith(".")


def test_the_readme_is_one_page() -> None:
    """Some 900 words, including tables and commands; the rest belongs on other pages."""
    assert len(_README.split()) <= 930


def test_the_readme_has_the_five_settings_that_everybody_needs() -> None:
    """Each is a setting, with its default."""
    table = rows(section("Settings"))
    assert len(table) == 5
    assert {name: default.strip("`") for name, (default, _) in table.items()} == {
        name: variables()[name].default for name in table
    }


def test_every_setting_stands_in_dot_env_with_its_default() -> None:
    """Neither more nor fewer."""
    given = RepositoryEnv(str(_ENV)).data
    assert given == {name: it.default for name, it in variables().items()}


def test_every_setting_in_dot_env_has_a_comment() -> None:
    """Each setting's line follows a comment that explains it."""
    blocks = [block.splitlines() for block in re.split(r"\n\n+", _ENV.read_text(encoding="utf-8").strip())]
    assert all(block[0].startswith("#") for block in blocks)


def test_dot_env_changes_nothing() -> None:
    """Without the file, the settings are the same."""
    assert load({}, _ENV) == load({})


def test_generating_keeps_a_value_that_somebody_has_set() -> None:
    """`make docs` writes comments; it never undoes a configuration."""
    lines = generate_settings.dot_env({"JOB_TIMEOUT": "60"}).splitlines()
    assert "JOB_TIMEOUT=60" in lines
    assert "MAX_JOBS=256" in lines


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_row_with_its_statuses(code: Code) -> None:
    """With both statuses, what happened, and what to do."""
    status, granular, happened, to_do = rows(generate_codes.page())[code]
    entry = problems.TABLE[code]
    assert (int(status), int(granular)) == (entry.status, entry.granular)
    assert happened.endswith(".")
    assert to_do.endswith(".")


def test_the_page_has_no_other_codes() -> None:
    """A removed code is removed from the table, too."""
    assert set(rows(generate_codes.page())) == set(Code)


def test_the_status_document_of_the_page_of_jobs_has_the_members_of_a_real_one() -> None:
    """In the same order."""
    page = (_ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^    (\{\"id\".+?\}$)", page, re.MULTILINE | re.DOTALL)
    assert list(json.loads(shown)) == list(status_document(finished()))


def test_every_route_stands_in_the_page_of_routes() -> None:
    """Exactly the paths that the front end serves."""
    source = "".join(path.read_text(encoding="utf-8") for path in (_ROOT / "proxy").rglob("*.py"))
    paths = {
        path.replace("{", "<").replace(":path", "").replace("}", ">")
        for path in re.findall(r"\bRoute\(\"(/[^\"]*)\"", source)
    }
    named = set(re.findall(r"[A-Z]+ (/[^` ]*)", " ".join(rows(generate_routes.page()))))
    assert len(paths) > 10
    assert paths == named - {"/static/<name>", "/<page>.html"}
