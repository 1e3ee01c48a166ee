"""URLs as they may be shown: without passwords and keys. Some services put a key into the path."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from shared import database_url

__all__ = ["shown", "shown_path", "without_secrets"]

#: The user name and password in a URL.
_USER: Final = re.compile(r"//[^/?#]*@")
#: The query, which may contain a key.
_QUERY: Final = re.compile(r"\?.*")
#: The path after the host.
_PATH: Final = re.compile(r"(://[^/?#]*)(/[^?#]*)")
#: This many letters and digits in a row are not a word; names made by people have separators.
_RUN: Final = re.compile(r"[A-Za-z0-9]{16,}+")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_MASK: Final = "..."


def shown(url: str) -> str:
    """Return a valid URL for a person: without user name, password, query, and parts of its path that look random."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{shown_path(parts.path)}"


def without_secrets(text: str) -> str:
    """Return a setting's text, which may be a URL or a misspelt one, with marks for what is not shown of it."""
    if database_url.is_database(text):
        return database_url.shown(text)
    text = _USER.sub("//...@", text)
    if "://" not in text:
        return text
    text = _QUERY.sub("?...", text)
    return _PATH.sub(lambda found: found[1] + shown_path(found[2]), text)


def shown_path(path: str) -> str:
    """Return a path in which each segment that looks random is masked, because it may be a secret."""
    return "/".join(_MASK if _is_random(segment) else segment for segment in path.split("/"))


def _is_random(segment: str) -> bool:
    return _UUID.search(segment) is not None or any(
        any(c.isdigit() for c in run) and any(c.isalpha() for c in run) for run in _RUN.findall(segment)
    )
