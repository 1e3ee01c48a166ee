"""Expressions over what a job server sent: JMESPath, with a short cut for plain paths.

A worker is forked from a process that should be small, and reads a reply for each job. So a path of member names, which
is what most profiles need, is looked up directly: jmespath takes 30 times as long and about 0.5 MB, and is loaded only
by a profile that uses more of the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Expression", "compile_expression", "is_true", "only_body", "plain_path", "text_of"]

#: Reads one object; null if it finds nothing. Never raises.
Expression = Callable[[Any], Any]

#: A step of a plain path: a name, in quotes if it has other characters than letters, digits and underscores.
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


def text_of(value: object) -> str:
    """Return what is compared with the words of a list: a string as it is, a boolean or a number as in JSON.

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


def _jmespath(text: str) -> Expression:
    import jmespath  # noqa: PLC0415 - costs memory and time that most profiles need not pay
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    from shared.job_server.functions import OPTIONS  # noqa: PLC0415

    try:
        parsed = jmespath.compile(text)
    except JMESPathError as exc:
        raise ValueError(str(exc).splitlines()[0]) from exc

    def search(value: Any) -> Any:  # noqa: ANN401 - JSON is what it is
        try:
            return parsed.search(value, OPTIONS)
        except (JMESPathError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return None  # a function with an argument of the wrong type

    return search
