"""Odd messages of a job server, made from samples: truncated, swapped, inflated, or with foreign parts."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any, Final

__all__ = ["body", "header", "status"]

#: Odd values that replace parts of a message.
_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 40, 1e308, 10**40, "", "succeeded", "FAILED", "completed", "\x00", "\ud800", "é" * 3000,
    "a\r\nX-Injected: yes", "../..", "http://other.example/x", "/x/../../y", "{callback_token}", [], {}, [[]],
    {"": None}, {"status": {"state": []}}, [{}, None, 7],
)  # fmt: skip
_TYPES: Final = (
    "application/json", "text/html", "", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "multipart/form-data", "application/octet-stream", "text/plain; charset=utf-16", "\u00e9/\u00e9", "a" * 500,
)  # fmt: skip
_STATUSES: Final = (
    200, 201, 202, 204, 206, 301, 302, 307, 400, 401, 404, 408, 409, 410, 422, 425, 429, 500, 501, 502, 503, 599
)  # fmt: skip


def _mutated(value: Any, chance: random.Random) -> Any:  # noqa: ANN401 - JSON is what it is
    """Return a JSON value in which one part is replaced."""
    if chance.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return chance.choice(_ODD)
    if isinstance(value, list):
        where = chance.randrange(len(value))
        return [_mutated(one, chance) if at == where else one for at, one in enumerate(value)]
    name = chance.choice(list(value))
    if chance.random() < 0.1:
        return {other: kept for other, kept in value.items() if other != name}
    return value | {name: _mutated(value[name], chance)}


def body(sample: str, chance: random.Random) -> bytes:
    """Return a body made from a sample's; half of the time unchanged or nearly so."""
    raw = sample.encode()
    match chance.randrange(10):
        case 0 | 1 | 2:
            return raw
        case 3 | 4 | 5 | 6:
            try:
                return json.dumps(_mutated(json.loads(sample), chance)).encode()
            except ValueError:
                return raw[::-1]
        case 7:
            return raw[: chance.randrange(len(raw) + 1)]
        case 8:
            return gzip.compress(raw)[: chance.choice([None, 10, -3])]
        case _:
            return chance.choice(
                [b"", b"<html>", b"[" * 5000, b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', chance.randbytes(200)]
            )


def header(chance: random.Random) -> str:
    """Return a Content-Type."""
    return chance.choice(_TYPES)


def status(usual: int, chance: random.Random) -> int:
    """Return a status: half of the time the usual one."""
    return usual if chance.random() < 0.5 else chance.choice(_STATUSES)
