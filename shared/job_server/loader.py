"""Loads profiles: TOML, checked against the dataclasses of profile.py; every expression is compiled once.

For the front end only: what this needs (tomllib, msgspec) no worker should carry.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from shared.errors import SettingsError
from shared.job_server.expressions import compile_expression
from shared.job_server.placeholders import KNOWN, names_in
from shared.job_server.profile import Profile

__all__ = ["FOLDER", "load", "parse", "path_of"]

#: Where the profiles are that a bare name means.
FOLDER: Final = Path(__file__).resolve().parents[2] / "profiles"

#: The keys that hold expressions, by section.
_EXPRESSIONS: Final = {"submit": ("rejected", "state"), "callback": ("state",)}


def path_of(name: str) -> Path:
    """Return the file that `name` means: a path where it has a slash or ends in .toml, else a file of `FOLDER`."""
    return Path(name) if "/" in name or name.endswith(".toml") else FOLDER / f"{name}.toml"


def load(name: str) -> Profile:
    """Return the profile `name`.

    Raises:
        SettingsError: there is none, or something in it is wrong; the message says what, and where.
    """
    path = path_of(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        shipped = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise SettingsError(
            f"PROFILE: got {name!r}, takes a profile's name ({shipped}) or the path of a .toml file"
        ) from exc
    try:
        return parse(text)
    except ValueError as exc:
        raise SettingsError(f"PROFILE: {path}: {exc}") from exc


def parse(text: str) -> Profile:
    """Return the profile that `text` is.

    Raises:
        ValueError: something in it is wrong; the message says what, and where.
    """
    document = tomllib.loads(text)  # TOMLDecodeError is a ValueError
    _check_keys(document, Profile, "")
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as exc:
        raise ValueError(_reason(exc)) from exc
    for place, expression in _expressions(profile):
        _check_expression(place, expression)
    _check_placeholders(profile)
    return profile


def _check_keys(table: Any, kind: type[Any], place: str) -> None:  # noqa: ANN401 - whatever the file holds
    """Refuse the first key that `kind`, a dataclass, does not have; a wrong type is msgspec's to refuse."""
    if not isinstance(table, dict):
        return
    hints = get_type_hints(kind)
    for name, value in table.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1, 0.5)
            meant = f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(hints)}"
            raise ValueError(f"there is no key `{name}`{_in(place)}{meant}")
        if is_dataclass(hints[name]):
            _check_keys(value, hints[name], f"{place}.{name}" if place else name)


def _in(place: str) -> str:
    return f" in [{place}]" if place else " at the top"


def _reason(exc: msgspec.ValidationError) -> str:
    """Return msgspec's reason with the place as TOML names it: `Expected int, got str - at $.submit.accepted[...]`."""
    reason, _, place = str(exc).partition(" - at `$")
    words = reason.replace("`", "").replace("Object missing required field", "missing key")
    return f"{place.strip('`.') or 'the top'}: {words}"


def _expressions(profile: Profile) -> Iterator[tuple[str, str]]:
    for section, names in _EXPRESSIONS.items():
        for name in names:
            yield f"{section}.{name}", getattr(getattr(profile, section), name)


def _check_expression(place: str, expression: str) -> None:
    try:
        compile_expression(expression)
    except ValueError as exc:
        raise ValueError(f"{place}: {expression!r} is no expression: {exc}") from exc


def _check_placeholders(profile: Profile) -> None:
    for field in fields(profile.submit):
        for name in names_in(getattr(profile.submit, field.name)):
            if name not in KNOWN:
                known = ", ".join(f"{{{known}}}" for known in sorted(KNOWN))
                raise ValueError(f"submit.{field.name}: there is no placeholder {{{name}}}; known are {known}")
