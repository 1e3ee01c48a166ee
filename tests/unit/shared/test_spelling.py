"""Which known name a misspelt one probably means, and how few names are compared letter by letter."""

from __future__ import annotations

import pytest

from shared import spelling
from shared.settings import variables
from shared.spelling import _distance, nearest


def _mistakes(name: str) -> list[str]:
    """Return the name with one letter too many, missing, wrong, or swapped, at its ends and in the middle."""
    places = (0, len(name) // 2, len(name) - 2)
    return [
        *(name[:i] + "X" + name[i:] for i in places),
        *(name[:i] + name[i + 1 :] for i in places),
        *(name[:i] + "X" + name[i + 1 :] for i in places),
        *(name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in places),
    ]


@pytest.mark.parametrize("name", ["MAX_JOBS", "TLS_KEYFILE"])
def test_a_long_name_is_known_by_two_mistakes_and_not_by_three(name: str) -> None:
    """Names that are excluded before the comparison would not match anyway."""
    for once in _mistakes(name):
        assert nearest(once, [name]) == name
        for twice in _mistakes(once):
            for thrice in (twice, *_mistakes(twice)):
                assert nearest(thrice, [name]) == (name if _distance(thrice, name) <= 2 else "")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PRT", "PORT"),
        ("prot", "PORT"),
        ("POTR", "PORT"),
        ("PXXT", ""),
        ("max-jobs", "MAX_JOBS"),
        ("HOME", ""),
        ("", ""),
    ],
)
def test_a_short_name_is_known_by_one(name: str, meant: str) -> None:
    """Case, and hyphens for underscores, do not count as mistakes."""
    assert nearest(name, ["PORT", "MAX_JOBS"]) == meant


def test_few_names_are_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment has dozens of variables, and a start compares each with each setting."""
    compared = 0

    def counting(a: str, b: str) -> int:
        nonlocal compared
        compared += 1
        return _distance(a, b)

    monkeypatch.setattr(spelling, "_distance", counting)
    known = variables()
    environment = [
        "HOME",
        "PATH",
        "LANG",
        "SHELL",
        "TERM",
        "PWD",
        "SSH_CONNECTION",
        "XDG_RUNTIME_DIR",
        "HOSTNAME",
        "LOGNAME",
    ]
    assert [nearest(name, known) for name in environment] == [""] * len(environment)
    assert compared < len(environment) * len(known) / 10
