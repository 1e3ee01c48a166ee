"""Expressions over the job server's messages: JMESPath, with a short cut for plain paths.

A worker is forked from a process that should be small, and reads a reply for each job. So a path of member names, which
is enough for most profiles, is looked up directly: jmespath takes 30 times as long and about 0.5 MB, and is loaded only
by a profile that uses more of the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

__all__ = ["Expression", "body_members", "compile_expression", "is_true", "only_body", "plain_path", "text_of"]

#: Reads one object; null if it finds nothing. Never raises.
Expression = Callable[[Any], Any]

#: A step of a plain path: a name, in quotes if it has other characters than letters, digits and underscores.
_STEP: Final = r'(?:[A-Za-z_][A-Za-z0-9_]*|"[^"\\]+")'
_PLAIN: Final = re.compile(rf"{_STEP}(?:\.{_STEP})*")
_STEPS: Final = re.compile(_STEP)
#: Nodes of JMESPath that look at the whole value.
_ANYTHING: Final = frozenset({"current", "value_projection"})
#: Nodes that look at a part of what their first child finds.
_OF_A_PART: Final = frozenset({"filter_projection", "flatten", "index_expression", "projection"})


def compile_expression(text: str) -> Expression:
    """Return the expression `text`; an empty one finds nothing.

    Raises:
        ValueError: it is not JMESPath; the message says why.
    """
    if not text:
        return _nothing
    path = plain_path(text)
    return _jmespath(text) if path is None else _look_up(path)


def plain_path(text: str) -> tuple[str, ...] | None:
    """Return the names in `text` if it is a plain path, otherwise None."""
    if not _PLAIN.fullmatch(text):
        return None
    return tuple(step.strip('"') for step in _STEPS.findall(text))


def only_body(*texts: str) -> bool:
    """Return whether these expressions are plain paths into `body`, so that nothing else has to be prepared."""
    paths = [plain_path(text) for text in texts if text]
    return all(path is not None and path[0] == "body" for path in paths)


def body_members(text: str) -> frozenset[str] | None:
    """Return the members of `body` that an expression reads; None: it may read any. Raises ValueError."""
    if not text:
        return frozenset()
    path = plain_path(text)
    if path is None:
        found = set(_steps_below_body(_parsed(text).parsed))
    else:
        found = set(path[1:2] or [None]) if path[0] == "body" else set()
    return None if None in found else frozenset(name for name in found if name is not None)


def _steps_below_body(node: Mapping[str, Any]) -> Iterator[str | None]:
    """Yield what follows each `body` in an expression's tree: a member's name, or None if any member may be meant."""
    children = [child for child in node["children"] if isinstance(child, dict)]
    if node["type"] == "subexpression" and _is_body(children[0]):
        yield _first_name(children[1])
        children = children[2:]
    if _is_body(node) or node["type"] in _ANYTHING:
        yield None
    for child in children:
        yield from _steps_below_body(child)


def _first_name(node: Mapping[str, Any]) -> str | None:
    while node["type"] in _OF_A_PART:
        node = node["children"][0]
    return str(node["value"]) if node["type"] == "field" else None


def _is_body(node: Mapping[str, Any]) -> bool:
    return bool(node["type"] == "field" and node["value"] == "body")


def text_of(value: object) -> str:
    """Return the text that is compared with a list of strings: a string itself, a boolean or a number as in JSON.

    Anything else, including null, has no text.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return ""


def is_true(value: object) -> bool:
    """Return whether JMESPath considers `value` true: a number always; a string, a list or an object unless empty."""
    return bool(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _nothing(_: object) -> None:
    return None


def _look_up(path: tuple[str, ...]) -> Expression:
    def look_up(value: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        for step in path:
            if type(value) is not dict:
                return None
            value = value.get(step)
        return value

    return look_up


def _parsed(text: str) -> ParsedResult:
    import jmespath  # noqa: PLC0415 - costs memory and time that most profiles need not pay
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    try:
        return jmespath.compile(text)
    except JMESPathError as exc:
        raise ValueError(str(exc).splitlines()[0]) from exc


def _jmespath(text: str) -> Expression:
    parsed = _parsed(text)

    from jmespath.exceptions import JMESPathError  # noqa: PLC0415 - as above

    from shared.job_server.functions import OPTIONS  # noqa: PLC0415

    def search(value: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        try:
            return parsed.search(value, OPTIONS)
        except (JMESPathError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return None  # a function with an argument of the wrong type

    return search
