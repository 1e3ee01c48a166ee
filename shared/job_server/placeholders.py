"""Placeholders in a profile's values, such as `{callback_url}`, filled in for each job.

Only known names are placeholders: other braces, as in a header that contains JSON, stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from shared.errors import ProxyError

__all__ = [
    "OURS",
    "UnfilledError",
    "fill",
    "fill_quoted",
    "has_placeholders",
    "is_json",
    "is_path",
    "json_text",
    "names_in",
    "texts_in",
    "without_placeholders",
]

#: The names that exist for every job, whatever the job server says.
OURS: Final = frozenset({"callback_url", "callback_token", "job_id", "job_uuid", "path"})

#: What is not percent-encoded beside letters, digits and `-._~`: a path may have it, and it means nothing in a query.
#: Some job servers do not take `%3A` for the colon in `models/x:predict`.
_UNQUOTED: Final = ":@"
#: `{name}`, `{callback_url/ROUTE}`, `{env:NAME}`.
_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*(?:/[A-Za-z0-9_-]+)?|env:[A-Za-z_][A-Za-z0-9_]*)\}")


class UnfilledError(ProxyError):
    """A value in the profile uses a name that has no value for this job, or an invalid one."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return `template` with its placeholders filled in; in JSON, values stay inside their quotes.

    Raises:
        UnfilledError: a name has no value.
    """
    if is_json(template):
        return _PLACEHOLDER.sub(lambda found: json.dumps(_value(found[1], values), ensure_ascii=False)[1:-1], template)
    return _PLACEHOLDER.sub(lambda found: _value(found[1], values), template)


def fill_quoted(template: str, values: Mapping[str, str]) -> str:
    """Return `template`, a part of a URL, with its placeholders filled in and percent-encoded; `{path}` keeps its `/`.

    Raises:
        UnfilledError: a name has no value, or its value would change the surrounding path.
    """
    return _PLACEHOLDER.sub(lambda found: _quoted(found[1], _value(found[1], values)), template)


def json_text(template: Any, values: Mapping[str, str]) -> str:  # noqa: ANN401 - JSON is what it is
    """Return `template`, a JSON value, as text, with its strings' placeholders filled in. Raises UnfilledError."""
    return json.dumps(_filled(template, values))


def names_in(template: Any) -> Iterator[str]:  # noqa: ANN401 - JSON is what it is
    """Yield the names of the placeholders in the strings of `template`, a JSON value."""
    for text in texts_in(template):
        yield from _PLACEHOLDER.findall(text)


def texts_in(template: Any) -> Iterator[str]:  # noqa: ANN401 - JSON is what it is
    """Yield the strings of `template`, a JSON value, that are filled in: names of members are not."""
    match template:
        case str():
            yield template
        case dict():
            for value in template.values():
                yield from texts_in(value)
        case list() | tuple():
            for value in template:
                yield from texts_in(value)


def is_json(text: str) -> bool:
    """Return whether `text`, a string of a profile, is itself a JSON object or list with strings in it."""
    if '"' not in text or text.lstrip()[:1] not in {"{", "["}:
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def without_placeholders(text: str) -> str:
    """Return what remains of `text`."""
    return _PLACEHOLDER.sub("", text)


def is_path(value: str) -> bool:
    """Return whether `value` can be filled in for `{path}`."""
    return _stay(value.split("/"))


def has_placeholders(template: Any) -> bool:  # noqa: ANN401 - JSON is what it is
    """Return whether there are any placeholders."""
    return next(names_in(template), None) is not None


def _value(name: str, values: Mapping[str, str]) -> str:
    name, slash, route = name.partition("/")
    value = values.get(name)
    if value is None:
        raise UnfilledError(f"{{{name}}} has no value")
    return value + slash + route


def _quoted(name: str, value: str) -> str:
    segments = value.split("/") if name == "path" else [value]
    if not _stay(segments):
        raise UnfilledError(f"what is filled in for {{{name}}} is empty, or would leave its place")
    return "/".join(quote(segment, safe=_UNQUOTED) for segment in segments)


def _stay(segments: Sequence[str]) -> bool:
    """Return whether a URL with these segments has them where they are put: RFC 3986 removes dots, and servers `//`."""
    return not any(segment in {"", ".", ".."} for segment in segments)


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
