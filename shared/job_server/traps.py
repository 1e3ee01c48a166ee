"""Mistakes in expressions that JMESPath itself accepts, or explains badly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from shared.spelling import nearest

__all__ = ["check_expression"]

_NOT_A_MEMBER: Final = re.compile(r"!\s*[A-Za-z_\"][A-Za-z0-9_\"-]*\.")
#: What other languages have, and what to write instead.
_HINTS: Final = (
    (re.compile(r"[A-Za-z0-9_]-[A-Za-z]"), 'a name with a hyphen needs quotes: headers."x-name"'),
    (re.compile(r"[=<>]\s*-?[0-9]"), "a number needs backticks: `1`"),
    (re.compile(r"\.[0-9]"), "an element of a list is in brackets: jobs[0]"),
    (re.compile(r"(?<![=!<>])=(?!=)"), "`==` compares"),
    (re.compile(r"\s(?:and|or)\s"), "write `&&` and `||`"),
    (re.compile(r"^\$?\."), "an expression begins with a name: body.state"),
)
_LITERALS: Final = frozenset({"null", "true", "false"})
_COMPARISONS: Final = frozenset({"eq", "ne", "lt", "lte", "gt", "gte"})
_HEADERS: Final = {"type": "field", "children": [], "value": "headers"}
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
    _check_meaning(text, parsed)
    for name, count in _functions(parsed):
        if name not in ARGUMENTS:
            near = nearest(name.upper(), [known.upper() for known in ARGUMENTS]).lower()
            meant = f"; did you mean {near}()?" if near else f"; there are {', '.join(sorted(ARGUMENTS))}"
            raise ValueError(f"{text!r}: there is no function {name}(){meant}")
        least, most = ARGUMENTS[name]
        if count < least or (most is not None and count > most):
            raise ValueError(f"{text!r}: {name}() takes {least}{' or more' if most is None else ''}, got {count}")
    for name in _roots(parsed):
        if name in _LITERALS:
            raise ValueError(f"{text!r}: {name} needs backticks: `{name}`")
        if name not in known:
            raise ValueError(f"{text!r}: there is no `{name}` to look at; there are {', '.join(sorted(known))}")


def _check_meaning(text: str, parsed: dict[str, Any]) -> None:
    """Refuse what is an expression, but never finds what it seems to look for."""
    from jmespath.lexer import Lexer  # noqa: PLC0415 - as above

    if _NOT_A_MEMBER.search(text):
        raise ValueError(f"{text!r}: `!a.b` means `(!a).b`; write `!(a.b)`")
    for before, token in pairwise(Lexer().tokenize(text)):
        if before["type"] in _COMPARISONS and token["type"] == "quoted_identifier":
            raise ValueError(f"{text!r}: \"{token['value']}\" is the name of a member; a text is '{token['value']}'")
    for name in _headers(parsed):
        if name != name.lower():
            raise ValueError(f"{text!r}: names of headers are in lower case here: {name.lower()}")


def _hint(text: str) -> str:
    return next((f"; {hint}" for pattern, hint in _HINTS if pattern.search(text)), "")


def _roots(node: dict[str, Any]) -> Iterator[str]:
    """Yield the names that an expression looks up in its input."""
    for one in _at_the_root(node):
        if one["type"] == "field":
            yield one["value"]


def _headers(node: dict[str, Any]) -> Iterator[str]:
    """Yield the names of headers that an expression looks up."""
    for one in _at_the_root(node):
        if one["type"] == "subexpression" and one["children"][0] == _HEADERS and one["children"][1]["type"] == "field":
            yield one["children"][1]["value"]


def _at_the_root(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes that look at the input of the whole expression."""
    yield node
    children = [child for child in node["children"] if isinstance(child, dict)]
    for child in children[:1] if node["type"] in _CHAINS else children:
        if child["type"] != "expref":
            yield from _at_the_root(child)


def _functions(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the functions that an expression calls: the name and the number of arguments."""
    if node["type"] == "function_expression":
        yield node["value"], len(node["children"])
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _functions(child)
