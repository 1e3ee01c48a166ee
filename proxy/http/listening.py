"""Listening sockets: created before anything else, so that a port in use is reported at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Final

from shared.errors import SettingsError

if TYPE_CHECKING:
    from shared.settings import Settings

__all__ = ["BACKLOG", "address", "bind", "check_certificate", "has_queued", "ignore_new"]

#: Connections that the kernel queues until we accept them.
BACKLOG: Final = 4096

#: How much of an answer the kernel accepts before the client's kernel does: small enough to notice a client that does
#: not read, and to keep answers of megabytes out of the kernel.
_UNSENT_BYTES: Final = 65_536

#: A client whose machine has vanished, or that has closed its connection, is noticed after two minutes: the kernel asks
#: for it after the first silent minute, then every 15 seconds. This also keeps connections open in firewalls and NATs.
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}

#: `SO_ATTACH_FILTER` in the kernel's <asm-generic/socket.h>.
_ATTACH_FILTER: Final = 26
#: A filter (classic BPF) that drops segments with the flag SYN, in byte 13: load it; test it; drop; otherwise accept.
_NO_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 0xFFFF_FFFF))

#: What to do about an error, if that is clear.
_HINTS: Final = {
    errno.EADDRINUSE: "; choose another port, or stop the process that listens there (see `ss -ltnp`)",
    errno.EACCES: "; ports below 1024 need privileges, choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine has no such address",
}

#: OpenSSL's names for errors of a certificate and its key that these messages explain better.
_TLS_REASONS: Final = dict.fromkeys(("KEY_TYPE_MISMATCH", "KEY_VALUES_MISMATCH"), "the key is not the certificate's")

#: A name may have both usable and unusable addresses: `localhost` often has an IPv6 address without IPv6.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def bind(name: str, host: str, port: int) -> socket.socket:
    """Return a listening socket, at the first available address of `host`.

    Raises:
        SettingsError: none is available; the message names the variables that set it.
    """
    reason: Exception | None = None
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _listen(socket.socket(family, kind, protocol), address)
            except OSError as exc:
                if exc.errno not in _NOT_HERE:
                    raise
                reason = exc
    except (OSError, UnicodeError) as exc:  # UnicodeError: an impossible name
        reason = exc
    number = getattr(reason, "errno", None) or 0
    words = getattr(reason, "strerror", None) or "the name cannot be resolved"
    raise SettingsError(f"{name}: cannot listen on {host}:{port}: {words}{_HINTS.get(number, '')}") from reason


def _listen(listener: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def ignore_new(listener: socket.socket) -> None:
    """Let the kernel ignore further attempts to connect, so that the queue of a listening socket gets empty.

    Closing the socket resets the connections in its queue, of which many have sent a request. Whoever is ignored tries
    again after a second, and is refused if the socket is closed by then.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with contextlib.suppress(OSError):  # a kernel that has no filters
        fields = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, fields)


def has_queued(listener: socket.socket) -> bool:
    """Return whether the kernel has connections for us."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def address(listener: socket.socket, *, tls: bool = False) -> str:
    """Return the base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}"


def check_certificate(settings: Settings) -> None:
    """Load the certificate and its key once at start: a server that cannot load them would start but serve no client.

    Raises:
        SettingsError: they cannot be used.
    """
    if not settings.tls_certfile:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a passphrase fails here, too; otherwise OpenSSL would ask for it on the terminal.
        context.load_cert_chain(settings.tls_certfile, settings.tls_keyfile, password=lambda: "")
    except (OSError, ValueError) as exc:
        given = f"{settings.tls_certfile!r} and {settings.tls_keyfile!r}"
        takes = "a certificate chain and its private key without a passphrase, both PEM"
        raise SettingsError(f"TLS_CERTFILE, TLS_KEYFILE: got {given}, takes {takes}{_tls_reason(exc)}") from exc


def _tls_reason(exc: Exception) -> str:
    """Return OpenSSL's error for the files, unless it only says that they are not PEM."""
    reason = getattr(exc, "reason", None) or ""
    return f"; {_TLS_REASONS.get(reason, reason.lower().replace('_', ' '))}" if reason else ""
