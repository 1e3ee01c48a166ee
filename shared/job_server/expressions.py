"""Expressions over what a job server sent: JMESPath, with a short cut for plain paths.

A worker is forked from a process that should be small, and reads a reply in each job. So a path of member names, which
is what most profiles need, is looked up directly: jmespath takes 30 times as long and some 0.5 MB, and is loaded only
by a profile that uses more of the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Expression", "compile_expression", "is_true", "text_of"]

#: Reads one object; null where it finds nothing. Never raises.
Expression = Callable[[Any], Any]

#: A step of a plain path: a name, in quotes where it holds anything but letters, digits and underscores.
_STEP: Final = r'(?:[A-Za-z_][A-Za-z0-9_]*|"[^"\\]+")'
_PLAIN: Final = re.compile(rf"{_STEP}(?:\.{_STEP})*")
_STEPS: Final = re.compile(_STEP)


def compile_expression(text: str) -> Expression:
    """Return the expression `text`; an empty one finds nothing.

    Raises:
        ValueError: it is not JMESPath; the message says why.
    """
    if not text:
        return _nothing
    if _PLAIN.fullmatch(text):
        return _path(tuple(step.strip('"') for step in _STEPS.findall(text)))
    return _jmespath(text)


def text_of(value: object) -> str:
    """Return what is compared with the words of a list: a string as it is, a boolean or a number as JSON writes it.

    Anything else, null among it, has no text.
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
    """Return whether JMESPath counts `value` as true: a number always, a text, a list or an object unless empty."""
    return bool(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _nothing(_: object) -> None:
    return None


def _path(steps: tuple[str, ...]) -> Expression:
    def look_up(value: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        for step in steps:
            if type(value) is not dict:
                return None
            value = value.get(step)
        return value

    return look_up


def _jmespath(text: str) -> Expression:
    import jmespath  # noqa: PLC0415 - costs memory and time that most profiles need not pay
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    try:
        parsed = jmespath.compile(text)
    except JMESPathError as exc:
        raise ValueError(str(exc).splitlines()[0]) from exc

    def search(value: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        try:
            return parsed.search(value)
        except (JMESPathError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return None  # a function that was given what it does not take

    return search
