"""Where a call goes: the job server's address, a profile's template, and what the job server itself named.

Values from the job server's messages may only name an address on that same server: a call to another server is refused,
because it would carry credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from shared.job_server.placeholders import UnfilledError, fill, fill_quoted, has_placeholders

__all__ = ["address", "origin"]

_PORTS: Final = {"http": 80, "https": 443}


def address(server_url: str, template: str, values: Mapping[str, str], query: Mapping[str, str] | None = None) -> str:
    """Return the URL of a call.

    The value of a placeholder at the beginning is a URL or a path from the root, which is used as it is, with the user
    name and password of `server_url`.

    Raises:
        UnfilledError: a name has no value, that value is neither, or the URL is not on the job server.
    """
    found = _target(server_url, template, values) if template else server_url
    if query:
        filled = urlencode({name: fill(value, values) for name, value in query.items()}, quote_via=quote)
        found += ("&" if "?" in found else "?") + filled
    return found


def _target(server_url: str, template: str, values: Mapping[str, str]) -> str:
    first, rest = _first_placeholder(template)
    if not first:
        return server_url.rstrip("/") + fill_quoted(template, values)
    value = fill(first, values)
    if not value.lower().startswith(("http://", "https://", "/")):  # appended, it could change the host or the port
        raise UnfilledError("the address that the job server named is neither a URL nor a path from the root")
    try:
        named = urljoin(server_url, value) + fill_quoted(rest, values) if value.isprintable() else ""
    except ValueError:
        named = ""
    if origin(named) != origin(server_url):
        raise UnfilledError("the address that the job server named is not on the job server")
    user, has_user, _ = urlsplit(server_url).netloc.rpartition("@")
    if has_user and "@" not in urlsplit(named).netloc:
        return named.replace("//", f"//{user}@", 1)
    return named


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of `url` (RFC 6454, section 4); if it is not a URL, something equal to no URL's."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", -1


def _first_placeholder(template: str) -> tuple[str, str]:
    """Return the placeholder at the beginning of `template`, if there is one, and the rest."""
    end = template.find("}") + 1
    first = template[:end]
    return (first, template[end:]) if first.startswith("{") and has_placeholders(first) else ("", template)
