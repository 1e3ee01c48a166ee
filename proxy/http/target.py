"""Request targets in absolute form, which a client sends if it treats this server as a proxy (RFC 9112, 3.2.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["in_origin_form"]

_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*+)([^#]*+)")
#: A host and a port, without a user: RFC 9110, 4.2.4 says to treat that as an error.
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]*+)?")

Headers = list[tuple[bytes, bytes]]


def in_origin_form(target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, Headers] | None:
    """Return a target without a host, and the headers with that host; None: the target is invalid."""
    given = list(headers)
    if target.startswith(b"/") or b"://" not in target:
        return target, given
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _AUTHORITY.fullmatch(absolute[1]):
        return None
    path = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    return path, [(b"host", absolute[1]), *(field for field in given if field[0] != b"host")]
