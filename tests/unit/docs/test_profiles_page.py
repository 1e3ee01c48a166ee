"""The page of profiles: its example is a valid profile, and it names every key."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest

from shared.job_server import loader
from shared.job_server.profile import Callback, Cancel, Profile, Result, Sample, Server, Status, Submit, Verify
from shared.job_server.samples import problems_with

_PAGE: Final = (Path(__file__).resolve().parents[3] / "docs" / "profiles.md").read_text(encoding="utf-8")
_SECTIONS: Final[dict[str, type[Any]]] = {
    "": Profile,
    "[server]": Server,
    "[submit]": Submit,
    "[callback]": Callback,
    "[verify]": Verify,
    "[status]": Status,
    "[result]": Result,
    "[cancel]": Cancel,
    "[[sample]]": Sample,
}


def keys() -> dict[str, set[str]]:
    """Return the keys that the page names, by section."""
    table = _PAGE.split("\n| Section | Key |", 1)[1].split("\n\n", 1)[0]
    found: dict[str, set[str]] = {}
    section = ""
    for line in table.splitlines()[2:]:
        first, second, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        section = first.strip("`") or section
        found.setdefault(section, set()).update(re.findall(r"`(\w+)`", second))
    return found


def test_the_example_is_a_profile_whose_samples_are_read_as_they_should() -> None:
    """A user can paste it."""
    (text,) = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
    profile = loader.parse(text)
    problems = [problem for sample in profile.sample for problem in problems_with(profile, sample, profile.server.url)]
    assert (len(profile.sample), problems) == (6, [])


@pytest.mark.parametrize("section", _SECTIONS)
def test_every_key_stands_in_the_table(section: str) -> None:
    """Exactly, except for the sections themselves."""
    known = {field.name for field in fields(_SECTIONS[section])}
    if not section:
        known -= {name.strip("[]") for name in _SECTIONS}
    assert keys()[section] == known


def test_every_shipped_profile_stands_in_the_table() -> None:
    """With a link to its file."""
    assert re.findall(r"\(\.\./profiles/([\w-]+)\.toml\)", _PAGE) == loader.shipped()
