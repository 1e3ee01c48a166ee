"""Applies a profile's templates in reverse: finds the filled-in values in what arrived."""

import json
import re
from collections.abc import Mapping

from shared.job_server.placeholders import names_in

__all__ = ["json_or_none", "learn", "learn_from_path", "lower"]


def learn(template: object, actual: object, values: dict[str, str]) -> None:
    """Add to `values` the values in `actual` of the placeholders in `template`, a JSON value."""
    match template, actual:
        case str(), str():
            found = _pattern(template, "(.+)").fullmatch(actual)
            names = list(names_in(template))
            for name, value in zip(names, found.groups() if found else (), strict=False):
                base, slash, route = name.partition("/")
                values.setdefault(base, value.removesuffix(slash + route))
        case str(), dict() | list():  # JSON in a field of a form
            learn(json_or_none(template.encode()), actual, values)
        case dict(), dict():
            for name, inner in template.items():
                learn(inner, actual.get(name), values)
        case list() | tuple(), list():
            for inner, one in zip(template, actual, strict=False):
                learn(inner, one, values)
        case _:
            pass


def learn_from_path(template: str, path: str, values: dict[str, str]) -> bool:
    """Do the same for a path; return whether it matches."""
    found = _pattern(template, "([^/]+)").fullmatch(path) or _pattern(template, "(.+)").fullmatch(path)
    if found:
        values.update(zip(names_in(template), found.groups(), strict=True))
    return found is not None


def _pattern(template: str, group: str) -> re.Pattern[str]:
    text = re.escape(template)
    for name in names_in(template):
        text = text.replace(re.escape(f"{{{name}}}"), group, 1)
    return re.compile(text, re.DOTALL)


def json_or_none(body: bytes) -> object:
    """Return the JSON value of a body, or None."""
    try:
        value: object = json.loads(body)
    except ValueError:
        return None
    return value


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}
