"""TLS to the job server: the trusted authorities, and readable reasons for failed handshakes.

`ssl` is loaded only when needed: workers that use plain HTTP do without it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["tls_trouble", "trusting"]

#: OpenSSL's numbers for a certificate with an unknown issuer: self-signed, or signed by a private authority.
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})
#: OpenSSL's names for answers of a server that does not speak TLS, or not the required kind.
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS; is it http:// rather than https://?",
    "HTTP_REQUEST": "it does not speak TLS; is it http:// rather than https://?",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection during the TLS handshake",
    "UNSUPPORTED_PROTOCOL": "it supports no TLS version that is accepted here",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it supports no TLS version that is accepted here",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a client certificate, and the proxy has none",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "it refused the TLS handshake: it asks for a client certificate, and the proxy has none, or no cipher is common"
    ),
}


def trusting(cafile: str) -> SSLContext:
    """Return a context that checks a server's certificate: against the system's authorities and those in `cafile`.

    The file is read again after a change.

    Raises:
        OSError: the file cannot be read or has no certificate in it.
    """
    if not cafile:
        return _trusting(cafile, ())
    now = Path(cafile).stat()
    return _trusting(cafile, (now.st_ino, now.st_size, now.st_mtime_ns))


@functools.lru_cache(maxsize=2)  # reading the system's certificates takes some 50 ms
def _trusting(cafile: str, _version: tuple[int, ...]) -> SSLContext:
    import ssl  # noqa: PLC0415 - see above

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if cafile:
        context.load_verify_locations(cafile)
    return context


def tls_trouble(exc: BaseException) -> str:
    """Return why a TLS handshake failed, in OpenSSL's or our words, never the server's."""
    for error in (exc, getattr(exc, "certificate_error", None), getattr(exc, "os_error", None), exc.__cause__):
        message = getattr(error, "verify_message", None)
        if message:
            hint = "; JOB_SERVER_CAFILE can name a file with its CA" if _code_of(error) in _UNKNOWN_ISSUER else ""
            return f"its certificate was not accepted: {str(message).rstrip('.')}{hint}"
    if isinstance(exc, ConnectionError):
        return _REASONS["UNEXPECTED_EOF_WHILE_READING"]
    for error in (exc, getattr(exc, "os_error", None), exc.__cause__):
        reason = getattr(error, "reason", None)
        if isinstance(reason, str) and reason:
            return _REASONS.get(reason, f"the TLS handshake failed: {reason.lower().replace('_', ' ')}")
    return "the TLS handshake failed"


def _code_of(error: BaseException | None) -> int:
    code = getattr(error, "verify_code", 0)
    return code if isinstance(code, int) else 0
