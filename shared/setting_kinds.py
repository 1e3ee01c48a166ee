"""What settings accept: a parser for each kind of value. Each value is parsed here, once, and nowhere else.

Programs disagree about quotes, comments and capitals in a configuration file. Ambiguous values are refused here,
wherever they come from. Accepted values have one form: the scheme and host of a URL are lower case, an IPv6 address has
no brackets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from decouple import strtobool

from shared.database_url import is_database, shown

__all__ = [
    "ADMIN_KEYS",
    "BOOLEAN",
    "CALLBACK_URL",
    "HEADER",
    "HOST",
    "JOURNAL",
    "KEYS",
    "NAME",
    "NAMES",
    "NETWORKS",
    "OPTIONAL_HOST",
    "OPTIONAL_PORT",
    "PATH",
    "PROFILE",
    "QUEUE_URL",
    "QUEUE_URLS",
    "URL",
    "USERS",
    "AdminKey",
    "Kind",
    "Role",
    "number",
    "one_of",
]

_MAX_PORT: Final = 65_535
_MAX_NAME: Final = 253
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
#: RFC 3986 does not allow these in a URL, and libraries treat them differently.
_NOT_IN_A_URL: Final = frozenset(' "<>\\^`{|}')
_COMMENT: Final = re.compile(r"\s#")
#: The names of operators: people and programs.
_USER: Final = re.compile(r"[A-Za-z0-9._@+-]{1,128}")
#: The minimum length: a shorter key can be guessed.
_ADMIN_KEY_CHARACTERS: Final = 16
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
#: Headers that are used before or for authentication, so no gateway can name the operator in them.
_TAKEN_HEADERS: Final = frozenset({"authorization", "cookie", "host", "origin"})

#: ASCII quotes, and those that word processors make of them.
_QUOTES: Final = frozenset("'\"\u2018\u2019\u201c\u201d")
#: References that a shell, Compose or Kubernetes would have replaced: `${NAME}`, `$(NAME)`, `$NAME` as a whole part.
_REFERENCE: Final = re.compile(
    r"\$\{[A-Za-z_][^{}$]*+\}|\$\([A-Za-z_][^()$]*+\)|(?:\A|(?<=[,:@])|(?<=//))\$[A-Za-z_]\w*+(?=[,:@/]|\Z)", re.ASCII
)


class Role(StrEnum):
    """What an operator may do on the admin address."""

    LOOK = "look"
    #: Stop jobs, pause, drain; and look.
    ACT = "act"


class AdminKey(NamedTuple):
    """A key for the admin address."""

    #: The operator's name.
    name: str
    role: Role
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a variable accepts: a parser that raises ValueError, and a description for people."""

    read: Callable[[str], Any]
    takes: str

    def parse(self, text: str) -> Any:  # noqa: ANN401 - as many types as kinds
        """Return the value. Raises ValueError, with a message if there is more to say than that it is invalid."""
        text = text.strip()
        if not text.isprintable():
            raise ValueError("it has characters that cannot be printed")
        if _COMMENT.search(text):
            raise ValueError("a comment belongs on a line of its own")
        if _REFERENCE.search(text):
            raise ValueError("what stands for another variable is not replaced here; write the value itself")
        if text[:1] in _QUOTES or text[-1:] in _QUOTES:
            raise ValueError("it has a quote at one end")
        try:
            value = self.read(text)
        except ValueError:
            raise ValueError from None  # the library's message may contain a secret
        if isinstance(value, str) and value[-1:] in _QUOTES:  # the URL had an empty query after the quote
            raise ValueError("it has a quote at its end")
        return value


def number(low: float, high: float, *, whole: bool) -> Kind:
    """Return the kind of the numbers from `low` to `high`."""

    def read(text: str) -> float:
        value = _whole(text) if whole else float(_plain(text))
        if not low <= value <= high:
            raise ValueError
        return value

    noun = "a whole number" if whole else "a number"
    return Kind(read=read, takes=f"{noun} from {low:.15g} to {high:.15g}")


def one_of(*words: str) -> Kind:
    """Return the kind of these words, ignoring case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Kind(read=read, takes=f"one of {', '.join(words)}")


def _plain(text: str) -> str:
    """Return `text`. Raises ValueError for what only Python accepts in numbers: other scripts' digits, underscores."""
    if not text.isascii() or "_" in text:
        raise ValueError
    return text


def _whole(text: str) -> int:
    return int(_plain(text))


def _port(text: str) -> int:
    value = _whole(text)
    if not 0 <= value <= _MAX_PORT:
        raise ValueError
    return value


def _host(text: str) -> str:
    """Return a host name or an IP address, lower case and without brackets."""
    name = text.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if ":" in name:
        ipaddress.IPv6Address(name)
        return name
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError
    if labels[-1].isdecimal() or labels[-1].startswith("0x"):  # no name ends in a number: it must be an address
        ipaddress.IPv4Address(name)
    return name


def _url(text: str) -> str:
    """Return a URL in a form that all libraries read alike: lower case scheme and host, no empty port, a path."""
    if not text:
        return ""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or "#" in text or not text.isascii() or _NOT_IN_A_URL & set(text):
        raise ValueError
    host = _host(parts.hostname or "")
    user, at, _ = parts.netloc.rpartition("@")
    if parts.port == 0 or any(c in user for c in "@[]"):
        raise ValueError
    if ":" in unquote(user.partition(":")[0]):  # the Basic scheme has no such user names (RFC 7617, section 2)
        raise ValueError
    port = "" if parts.port is None else f":{parts.port}"
    netloc = f"{user}{at}[{host}]{port}" if ":" in host else f"{user}{at}{host}{port}"
    return urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))


def _callback_url(text: str) -> str:
    if "?" in text:
        raise ValueError
    return _url(text).rstrip("/")


def _queue_url(text: str) -> str:
    """Return the address of a queue, whose path is /ACCOUNT/NAME."""
    if "?" in text or "@" in text or (text and len(urlsplit(text).path.strip("/").split("/")) < 2):  # noqa: PLR2004
        raise ValueError
    return _url(text)


def _listed(text: str) -> tuple[str, ...]:
    """Return the parts of a list, which commas separate."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _queue_urls(text: str) -> tuple[str, ...]:
    urls = tuple(map(_queue_url, _listed(text)))
    if not all(urls):
        raise ValueError
    return urls


def _path(text: str) -> str:
    if text.startswith("~") or "$" in text:  # a shell would replace these; a file with such a name would be a surprise
        raise ValueError
    return text


def _journal(text: str) -> str:
    if is_database(text):
        if not text.isascii() or set(' <>"\\^`{|}') & set(text) or shown(text).endswith("//"):
            raise ValueError
        return text
    if (
        "://" in text or text.lower().startswith((":memory:", "file:")) or text.endswith("/")
    ):  # SQLite's names for things that are not a file
        raise ValueError
    return _path(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(_host, _listed(text)))


def _members(text: str) -> tuple[str, ...]:
    members = _listed(text)
    # A quote: `"a", "b"` names no member, and nothing would be masked.
    if any(not name or not name.isprintable() or _QUOTES & {name[0], name[-1]} for name in members):
        raise ValueError
    return members


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, _listed(text)))


def _profile(text: str) -> str:
    if not text:
        raise ValueError
    return _path(text)


def _keys(text: str) -> tuple[str, ...]:
    keys = _listed(text)
    if any(not key or not key.isascii() or not key.isprintable() or set(" '\"") & set(key) for key in keys):
        raise ValueError
    return keys


def _admin_keys(text: str) -> tuple[AdminKey, ...]:
    keys = []
    for entry in _keys(text):
        name, role, key = entry.split(":", 2)  # a ValueError, if there are not three
        if not _USER.fullmatch(name) or len(key) < _ADMIN_KEY_CHARACTERS:
            raise ValueError
        keys.append(AdminKey(name, Role(role), key))
    return tuple(keys)


def _header(text: str) -> str:
    if text and (not _HEADER.fullmatch(text) or text.lower() in _TAKEN_HEADERS):
        raise ValueError
    return text.lower()


def _users(text: str) -> tuple[str, ...]:
    users = _listed(text)
    if any(name != "*" and not _USER.fullmatch(name) for name in users):
        raise ValueError
    return users


def _name(text: str) -> str:
    if len(text) > _MAX_NAME or any(c.isspace() or c == "," for c in text):  # lists of names have commas
        raise ValueError
    return text


HOST: Final = Kind(read=_host, takes="a host name or an IP address")
OPTIONAL_HOST: Final = Kind(
    read=lambda text: _host(text) if text else "", takes="a host name, an IP address, or nothing"
)
OPTIONAL_PORT: Final = Kind(
    read=lambda text: _port(text) if text else None, takes="a port from 0 to 65535 (0: any free one), or nothing"
)
BOOLEAN: Final = Kind(read=lambda text: bool(strtobool(text)), takes="true or false")
URL: Final = Kind(read=_url, takes="an http:// or https:// address, or nothing")
CALLBACK_URL: Final = Kind(read=_callback_url, takes="an http:// or https:// address without a query, or nothing")
QUEUE_URL: Final = Kind(
    read=_queue_url, takes="the http:// or https:// address of a queue, with account and name, or nothing"
)
QUEUE_URLS: Final = Kind(read=_queue_urls, takes="addresses of queues, separated by commas, or nothing")
PATH: Final = Kind(read=_path, takes="a file's path without ~ and $, or nothing")
JOURNAL: Final = Kind(
    read=_journal,
    takes="a file's path without ~ and $, postgresql://user@host:5432/database, or nothing (jobs are then kept in "
    "memory)",
)
NAME: Final = Kind(read=_name, takes="a name without spaces and commas, or nothing")
NAMES: Final = Kind(read=_names, takes="host names, separated by commas, or nothing")
MEMBERS: Final = Kind(read=_members, takes="names of members without quotes, separated by commas, or nothing")
NETWORKS: Final = Kind(
    read=_networks, takes="IP addresses and networks such as 10.0.0.0/8, separated by commas, or nothing"
)
PROFILE: Final = Kind(read=_profile, takes="the name of a file in profiles/, or a path to a .toml file")
KEYS: Final = Kind(read=_keys, takes="keys of printable ASCII without spaces and quotes, separated by commas")
ADMIN_KEYS: Final = Kind(
    read=_admin_keys,
    takes="NAME:look:KEY or NAME:act:KEY, separated by commas, each key of 16 or more characters of printable ASCII "
    "without spaces and quotes, or nothing",
)
HEADER: Final = Kind(read=_header, takes="the name of a header, or nothing")
USERS: Final = Kind(read=_users, takes="names, separated by commas, or * for all, or nothing")
