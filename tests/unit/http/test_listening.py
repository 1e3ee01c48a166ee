"""Listening sockets; the certificate: errors in it are reported at the start, with the reason."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import pytest

from proxy.http.listening import bind, check_certificate
from shared.errors import SettingsError
from shared.settings import load

_TLS: Final = Path(__file__).resolve().parents[2] / "support/tls"


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("cert.pem", "other-key.pem", "both PEM; the key is not the certificate's"),
        ("key.pem", "cert.pem", "both PEM"),
    ],
)
def test_files_that_do_not_fit_are_told_with_what_openssl_has_against_them(
    certificate: str, key: str, reason: str
) -> None:
    """In one line."""
    settings = load({"TLS_CERTFILE": str(_TLS / certificate), "TLS_KEYFILE": str(_TLS / key)})
    with pytest.raises(SettingsError, match=rf"^TLS_CERTFILE, TLS_KEYFILE: got .*{reason}$"):
        check_certificate(settings)


def test_a_certificate_with_its_key_is_good() -> None:
    """The valid case, which the other tests vary."""
    check_certificate(load({"TLS_CERTFILE": str(_TLS / "cert.pem"), "TLS_KEYFILE": str(_TLS / "key.pem")}))


def test_vanished_clients_are_noticed() -> None:
    """The kernel asks for silent ones on each connection that is accepted."""
    with bind("HOST, PORT", "127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection = listener.accept()[0]
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
