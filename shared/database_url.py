"""Addresses of databases as in `JOURNAL`, and how they are shown without secrets."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["is_database", "shown", "without_secrets"]

_SCHEMES: Final = ("postgresql://", "postgres://")
#: A password may be in the address, even if badly encoded, or be a parameter.
_SECRETS: Final = (re.compile(r"//[^:/@?]*:(.*)@"), re.compile(r"[?&](?:ssl)?password=([^&]*)", re.IGNORECASE))


def is_database(journal: str) -> bool:
    """Whether this names a database, and not a file."""
    return journal.lower().startswith(_SCHEMES)


def shown(url: str) -> str:
    """Return the address without password and parameters."""
    scheme, _, rest = url.partition("://")
    before, _, parameters = rest.partition("?")
    login, at, place = before.rpartition("@")
    if not at and "@" in parameters:  # a password has a question mark, which should have been %3F
        return f"{scheme}://..."
    user = f"{login.partition(':')[0]}@" if at else ""
    return f"{scheme}://{user}{place}"


def without_secrets(url: str, words: str) -> str:
    """Return a message about an address, without any part of a password."""
    secrets = {secret for pattern in _SECRETS for secret in pattern.findall(url)}
    pieces = {piece for secret in secrets for piece in re.split(r"[/?:@&]", secret)} | secrets
    pieces |= {unquote(piece) for piece in pieces}
    for piece in sorted(pieces - {""}, key=len, reverse=True):
        words = words.replace(piece, "***")
    return words
