"""The parameters of operators' requests: each is known by its name, given once, and of limited length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from shared.errors import ParameterError

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["number", "parameters", "single_values"]

_MAX_CHARACTERS: Final = 300


def parameters(scope: Scope) -> list[tuple[str, str]]:
    """Return the parameters of a request, in order. Raises ParameterError: they are not UTF-8."""
    try:
        return parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as exc:
        raise ParameterError("", "the parameters are not percent-encoded UTF-8, or more than 100") from exc


def single_values(pairs: Iterable[tuple[str, str]], known: Sequence[str], prefix: str = "") -> dict[str, str]:
    """Return the parameters by name; each may be given only once. Raises ParameterError.

    Besides the `known` names there may be any that begin with `prefix`, if that is not empty.
    """
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known and not (prefix and name.startswith(prefix) and name != prefix):
            takes = ", ".join([*known, *([f"{prefix}NAME"] if prefix else [])])
            raise ParameterError(name, f"there is no parameter `{name[:_MAX_CHARACTERS]}`; there are {takes}")
        if name in given:
            raise ParameterError(name, f"`{name}` is given twice; several values are separated by commas")
        if len(value) > _MAX_CHARACTERS:
            raise ParameterError(name, f"`{name}` has {len(value)} characters, takes {_MAX_CHARACTERS} at most")
        if "\0" in value and name in known:  # PostgreSQL has no such texts, except the JSON of labels
            raise ParameterError(name, f"`{name}` has a NUL character, which cannot be searched for")
        if any("\ud800" <= c <= "\udfff" for c in name + value):  # from a command line
            raise ParameterError(name, f"`{name}` is not UTF-8")
        given[name] = value
    return given


def number(given: dict[str, str], name: str, most: int) -> int | None:
    """Return a whole number from 1 to `most`; None: it is not given. Raises ParameterError."""
    text = given.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ParameterError(name, f"`{name}` is {text!r}, takes a number from 1 to {most}")
    return int(text)
