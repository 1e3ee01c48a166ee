"""Mistakes in expressions that JMESPath itself accepts, or explains badly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from shared.spelling import nearest

__all__ = ["check_expression"]

_NOT_A_MEMBER: Final = re.compile(r"!\s*[A-Za-z_\"][A-Za-z0-9_\"-]*\.")
_BARE_NUMBER: Final = re.compile(r"[=<>]\s*-?[0-9]")
_BARE_HYPHEN: Final = re.compile(r"[A-Za-z0-9_]-[A-Za-z]")
#: Nodes of which only the first child looks at the same value as the whole expression.
_CHAINS: Final = frozenset(
    {"subexpression", "index_expression", "projection", "value_projection", "filter_projection", "pipe"}
)


def check_expression(text: str, known: frozenset[str]) -> None:
    """Raise ValueError if `text` is not an expression over the names `known`, or cannot mean what it says."""
    import jmespath  # noqa: PLC0415 - most profiles have no expressions
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    from shared.job_server.functions import ARGUMENTS  # noqa: PLC0415

    try:
        parsed: Any = jmespath.compile(text).parsed
    except JMESPathError as exc:
        raise ValueError(f"{text!r} is no expression: {str(exc).splitlines()[0].rstrip(':')}{_hint(text)}") from exc
    if _NOT_A_MEMBER.search(text):
        raise ValueError(f"{text!r}: `!a.b` means `(!a).b`; write `!(a.b)`")
    for name, count in _functions(parsed):
        if name not in ARGUMENTS:
            near = nearest(name.upper(), [known.upper() for known in ARGUMENTS]).lower()
            meant = f"; did you mean {near}()?" if near else f"; there are {', '.join(sorted(ARGUMENTS))}"
            raise ValueError(f"{text!r}: there is no function {name}(){meant}")
        least, most = ARGUMENTS[name]
        if count < least or (most is not None and count > most):
            raise ValueError(f"{text!r}: {name}() takes {least}{' or more' if most is None else ''}, got {count}")
    for name in _roots(parsed):
        if name not in known:
            raise ValueError(f"{text!r}: there is no `{name}` to look at; there are {', '.join(sorted(known))}")


def _hint(text: str) -> str:
    if _BARE_HYPHEN.search(text):
        return '; a name with a hyphen needs quotes: headers."x-name"'
    if _BARE_NUMBER.search(text):
        return "; a number needs backticks: `1`"
    return ""


def _roots(node: dict[str, Any]) -> Iterator[str]:
    """Yield the names that an expression looks up in its input."""
    if node["type"] == "field":
        yield node["value"]
    children = [child for child in node["children"] if isinstance(child, dict)]
    for child in children[:1] if node["type"] in _CHAINS else children:
        if child["type"] != "expref":
            yield from _roots(child)


def _functions(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the functions that an expression calls: the name and the number of arguments."""
    if node["type"] == "function_expression":
        yield node["value"], len(node["children"])
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _functions(child)
