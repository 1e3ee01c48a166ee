"""Masks URL paths before they are shown: some services put a key into the path."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["shown_path"]

#: This many letters and digits in a row are not a word; names made by people have separators.
_RUN: Final = re.compile(r"[A-Za-z0-9]{16,}+")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_MASK: Final = "..."


def shown_path(path: str) -> str:
    """Return a path in which each segment that looks random is masked, because it may be a secret."""
    return "/".join(_MASK if _is_random(segment) else segment for segment in path.split("/"))


def _is_random(segment: str) -> bool:
    return _UUID.search(segment) is not None or any(
        any(c.isdigit() for c in run) and any(c.isalpha() for c in run) for run in _RUN.findall(segment)
    )
