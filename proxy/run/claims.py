"""The exclusive resources of a proxy: its addresses, and a journal file. Claimed before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.http.listening import address, bind, check_certificate
from shared.database_url import is_database
from shared.errors import SettingsError

if TYPE_CHECKING:
    from proxy.store.journal.file import JournalFile
    from shared.settings import Settings

__all__ = ["bind_all", "callback_url", "claim", "speaks_tls", "urls_of"]

T = TypeVar("T")

_TAKEN: Final = ("Address already in use", "is in use by another proxy")
_ANOTHER: Final = (
    "another proxy may already be running here (`ss -ltnp` shows it): stop it, or give this one a PORT, an ADMIN_PORT "
    "and a JOURNAL of its own"
)


def _addresses(settings: Settings) -> dict[str, tuple[str, str, int]]:
    """Return the listeners' names, each with its variables, host and port."""
    found = {}
    if settings.port is not None:
        found["public"] = ("HOST, PORT", settings.host, settings.port)
    if settings.callback_port is not None:
        host = settings.callback_host or settings.host
        found["callback"] = ("CALLBACK_HOST, CALLBACK_PORT", host, settings.callback_port)
    if settings.admin_port is not None:
        found["admin"] = ("ADMIN_HOST, ADMIN_PORT", settings.admin_host, settings.admin_port)
    return found


def bind_all(settings: Settings) -> dict[str, socket.socket]:
    """Return the listening sockets of the configured listeners by name: `public`, `callback` and `admin`.

    Raises:
        SettingsError: some are not available, or their certificate is not; the message has a line for each.
    """
    troubles: list[str] = []
    _try(troubles, lambda: check_certificate(settings))
    found = {name: _try(troubles, partial(bind, *where)) for name, where in _addresses(settings).items()}
    sockets = {name: sock for name, sock in found.items() if sock is not None}
    if troubles:
        _close(sockets)
        raise SettingsError("\n".join(troubles))
    return sockets


def speaks_tls(settings: Settings, name: str) -> bool:
    """Return whether the listener with this name speaks TLS; the operators' never does."""
    return bool(settings.tls_certfile) and name != "admin"


def urls_of(settings: Settings, sockets: dict[str, socket.socket]) -> dict[str, str]:
    """Return the base URLs of the listeners by name."""
    return {name: address(sock, tls=speaks_tls(settings, name)) for name, sock in sockets.items()}


def callback_url(settings: Settings, urls: dict[str, str]) -> str:
    """Return the callback route's base URL: the configured one, otherwise that of its listener."""
    return settings.callback_url or f"{urls.get('callback') or urls['public']}/callback"


def claim(settings: Settings) -> tuple[dict[str, socket.socket], JournalFile | None]:
    """Return the listening sockets, and the open journal if it is a file.

    Raises:
        SettingsError: something is in use or not available; the message has a line for each, and another one if
            a proxy seems to be running already.
    """
    troubles: list[str] = []
    sockets = _try(troubles, lambda: bind_all(settings))
    is_file = settings.journal and not is_database(settings.journal)
    journal = _try(troubles, lambda: _open_journal(settings.journal)) if is_file else None
    if troubles:
        _close(sockets or {})
        if journal is not None:
            journal.close()
        text = "\n".join(troubles)
        raise SettingsError(f"{text}\n{_ANOTHER}" if any(words in text for words in _TAKEN) else text)
    return sockets or {}, journal


def _open_journal(path: str) -> JournalFile:
    from proxy.store.journal.file import JournalFile  # noqa: PLC0415 - loads SQLite; only if it is used

    return JournalFile(path)


def _try(troubles: list[str], claim_it: Callable[[], T]) -> T | None:
    try:
        return claim_it()
    except SettingsError as exc:
        troubles.append(str(exc))
        return None


def _close(sockets: dict[str, socket.socket]) -> None:
    for sock in sockets.values():
        sock.close()
