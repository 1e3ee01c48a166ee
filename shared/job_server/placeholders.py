"""Placeholders in a profile's values: `{callback_url}` and the like, filled in for each job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["KNOWN", "fill", "has_placeholders", "json_text", "names_in"]

#: The names that are known of each job.
KNOWN: Final = frozenset({"callback_url", "callback_token", "job_id"})

_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return `template` with its placeholders filled in. Raises KeyError with the name of one that has no value."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def json_text(template: Any, values: Mapping[str, str]) -> str:  # noqa: ANN401 - JSON is what it is
    """Return `template`, a JSON value, as text, with the placeholders in its strings filled in. Raises as `fill`."""
    return json.dumps(_filled(template, values))


def names_in(template: Any) -> Iterator[str]:  # noqa: ANN401 - JSON is what it is
    """Yield the names of the placeholders in the strings of `template`, a JSON value."""
    match template:
        case str():
            yield from _PLACEHOLDER.findall(template)
        case dict():
            for value in template.values():
                yield from names_in(value)
        case list() | tuple():
            for value in template:
                yield from names_in(value)


def has_placeholders(template: Any) -> bool:  # noqa: ANN401 - JSON is what it is
    """Return whether there is anything to fill in."""
    return next(names_in(template), None) is not None


def _filled(template: Any, values: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON is what it is
    match template:
        case str():
            return fill(template, values)
        case dict():
            return {name: _filled(value, values) for name, value in template.items()}
        case list() | tuple():
            return [_filled(value, values) for value in template]
        case _:
            return template
