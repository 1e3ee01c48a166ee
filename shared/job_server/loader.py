"""Loads profiles: TOML, checked against the dataclasses of profile.py and against rules that these cannot express.

For the front end only: workers should not load the libraries for this (tomllib, msgspec).
"""

from __future__ import annotations

import functools
import os
import stat
import tomllib
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from shared.errors import SettingsError
from shared.job_server.checks import check
from shared.job_server.placeholders import names_in
from shared.job_server.profile import READING, Profile
from shared.job_server.secret_values import file_of, value_of
from shared.spelling import nearest

__all__ = ["FOLDER", "load", "parse", "path_of", "secret_files", "secret_names", "secrets_of", "shipped"]

#: The folder of profiles that are given by name.
FOLDER: Final = Path(__file__).resolve().parents[2] / "profiles"


def path_of(name: str) -> Path:
    """Return the file of `name`: a path if it has a slash or ends in .toml, otherwise a file in `FOLDER`."""
    return Path(name) if "/" in name or name.endswith(".toml") else FOLDER / f"{name}.toml"


def shipped() -> list[str]:
    """Return the names of the profiles in `FOLDER`."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load(name: str) -> Profile:
    """Return the profile `name`.

    Raises:
        SettingsError: there is no such profile, or it is invalid; the message says what is wrong, and where.
    """
    path = path_of(name)
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)  # a pipe or a device may never end
    except PermissionError as exc:
        raise SettingsError(f"PROFILE: {path} cannot be read: {exc.strerror}") from exc
    except (OSError, ValueError):  # ValueError: a name with a null byte
        is_file = False
    if not is_file:
        if path.parent != FOLDER:
            raise SettingsError(f"PROFILE: got {name!r}, and there is no file {str(path.absolute())!r}")
        takes = f"a profile's name ({', '.join(shipped())}) or the path of a .toml file"
        raise SettingsError(f"PROFILE: got {name!r}, takes {takes}")
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise SettingsError(f"PROFILE: {path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"PROFILE: {path}: it is not UTF-8 (byte {exc.start})") from exc
    except ValueError as exc:
        raise SettingsError(f"PROFILE: {path}: {exc}") from exc


def secret_names(profile: Profile) -> list[str]:
    """Return the names of the placeholders `{env:NAME}` of `profile`, each as `env:NAME`."""
    return sorted({name for name in names_in(profile.as_json()) if name.startswith("env:")})


def secrets_of(profile: Profile, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the value of each placeholder `{env:NAME}` of `profile`, by `env:NAME`.

    Raises:
        SettingsError: some are not set, cannot be read, or cannot stand in the headers that they are sent in; a line
            for each.
    """
    sections = (profile.server, profile.submit, profile.status, profile.result, profile.cancel)
    in_headers = set(names_in([section.headers for section in sections if section]))
    if profile.verify:
        in_headers.update(names_in(profile.verify.value))
    secrets = {}
    troubles = []
    for name in secret_names(profile):
        file = file_of(name, environ)
        variable = name.removeprefix("env:") + ("_FILE" if file else "")
        try:
            value = secrets[name] = value_of(name, environ)
        except (OSError, UnicodeDecodeError) as exc:
            path, reason = str(Path(file).absolute()), getattr(exc, "strerror", "") or exc
            troubles.append(f"{variable}: {path!r} cannot be read: {reason}")
            continue
        if not value:
            how = "put it into the file" if file else f"set it or {variable}_FILE in the environment, not in .env"
            troubles.append(f"{variable}: got nothing, takes what the profile {profile.name} needs; {how}")
        elif name in in_headers and not value.isprintable():
            takes = "takes one line without a line break at its end, as it stands in a header"
            troubles.append(f"{variable}: got a value (not shown), {takes}")
    if troubles:
        raise SettingsError("\n".join(troubles))
    return secrets


def secret_files(profile: Profile, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the paths of the files that have the values of placeholders `{env:NAME}` of `profile`, by `env:NAME`."""
    return {name: file for name in secret_names(profile) if (file := file_of(name, environ))}


def parse(text: str) -> Profile:
    """Return the profile in `text`.

    Raises:
        ValueError: it is invalid; the message says what is wrong, and where.
    """
    try:
        return _parsed(tomllib.loads(text))  # TOMLDecodeError is a ValueError
    except RecursionError:
        raise ValueError("something in it is nested too deeply") from None


def _parsed(document: dict[str, Any]) -> Profile:
    _check_keys(document, Profile, "")
    status, callback = document.get("status"), document.get("callback")
    if isinstance(status, dict) and isinstance(callback, dict):
        document["status"] = {name: callback[name] for name in READING if name in callback} | status
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as exc:
        raise ValueError(_reason(exc)) from exc
    check(profile)
    return profile


def _check_keys(table: Any, kind: type[Any], place: str) -> None:  # noqa: ANN401 - whatever the file contains
    """Refuse the first key that `kind`, a dataclass, does not have; msgspec refuses wrong types."""
    if not isinstance(table, dict):
        return
    hints = _hints(kind)  # type: ignore[arg-type] # mypy takes a class for its objects, which have no hash
    for name, value in table.items():
        if name not in hints:
            near = nearest(name, [known.upper() for known in hints]).lower()
            meant = f"; did you mean `{near}`?" if near else f"; known are {', '.join(hints)}"
            raise ValueError(f"there is no key `{name}`{_in(place)}{meant}")
        if get_origin(hints[name]) is Literal and value not in (takes := get_args(hints[name])):
            raise ValueError(f"{place}.{name}: got {value!r}, takes one of {', '.join(takes)}")
        below = _dataclass_in(hints[name])
        if below is not None and get_origin(hints[name]) is tuple and isinstance(value, dict):
            raise ValueError(f"{name}: takes [[{name}]], with two brackets")
        if hints[name] == dict[str, str] and isinstance(value, dict):
            _check_texts(value, f"{place}.{name}")
        if below is not None:
            for one, where in _each(value, f"{place}.{name}" if place else name):
                _check_keys(one, below, where)


def _each(value: Any, place: str) -> list[tuple[Any, str]]:  # noqa: ANN401 - whatever the file contains
    """Return the tables in `value`, one or a list of them, and their places."""
    if not isinstance(value, list):
        return [(value, place)]
    return [(one, f"{place}[{number}]") for number, one in enumerate(value)]


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the keys of a dataclass and their types; evaluating these takes longer than all other checks."""
    return get_type_hints(kind)


def _check_texts(table: dict[str, Any], place: str) -> None:
    """Refuse a value that is not text; msgspec's message does not say which one it is."""
    for name, value in table.items():
        if not isinstance(value, str):
            raise ValueError(f"{place}.{name}: Expected str, got {type(value).__name__}")  # noqa: TRY004 - one kind for all


def _dataclass_in(hint: Any) -> type[Any] | None:  # noqa: ANN401 - a type hint
    """Return the dataclass in a type hint: itself, optional, or in a tuple."""
    if get_origin(hint) in {types.UnionType, tuple}:
        return next((one for one in get_args(hint) if is_dataclass(one) and isinstance(one, type)), None)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _in(place: str) -> str:
    if not place:
        return " at the top"
    return f" in {place}" if place.endswith("]") else f" in [{place}]"


def _reason(exc: msgspec.ValidationError) -> str:
    """Return msgspec's reason with the place as TOML names it: `Expected int, got str - at $.submit.accepted[...]`."""
    reason, _, place = str(exc).partition(" - at `$")
    words = reason.replace("`", "").replace("Object missing required field", "missing key")
    return f"{place.strip('`.') or 'the top'}: {words}"
