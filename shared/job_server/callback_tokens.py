"""Removes callback tokens from a job server's messages: one that could not call back often quotes the URL."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["bytes_without_tokens", "without_tokens"]

_IN_A_URL: Final = re.compile(r"(?<=/callback/)[A-Za-z0-9_-]{40,}")


def without_tokens(text: str) -> str:
    """Return `text` without the tokens of callback URLs: they belong into no log, record or answer."""
    return _IN_A_URL.sub("***", text)


def bytes_without_tokens(body: bytes) -> bytes:
    """Return `body`, of whatever encoding, without the tokens of callback URLs."""
    return without_tokens(body.decode("latin-1")).encode("latin-1")
