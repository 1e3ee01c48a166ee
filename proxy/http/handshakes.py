"""Failed TLS handshakes: event loops close the connection silently.

Otherwise, nobody would notice a job server that does not trust the certificate, or calls back by plain HTTP, and its
jobs would end at their deadlines. One that closes silently is still not noticed: it looks like a check of the port.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

__all__ = ["report_failures"]

#: OpenSSL's names for what went wrong. An alert is sent by the client.
_REASONS: Final = {
    "HTTP_REQUEST": "the client speaks plain HTTP: is its URL http:// rather than https://?",
    "NO_SHARED_CIPHER": "the client has no cipher that is accepted here",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know who signed the certificate (unknown CA)",
    "UNSUPPORTED_PROTOCOL": "the client has no version of TLS that is accepted here",
}
_ALERT: Final = "_ALERT_"


def report_failures(context: ssl.SSLContext, on_failure: Callable[[str], None]) -> None:
    """Call `on_failure` with the reason of each failed handshake of this context, from OpenSSL or in our words."""

    class Reported(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise  # the handshake is not finished
            except ssl.SSLError as exc:
                on_failure(_words(exc.reason or ""))
                raise

    context.sslobject_class = Reported


def _words(reason: str) -> str:
    if reason in _REASONS:
        return _REASONS[reason]
    _, is_alert, alert = reason.partition(_ALERT)
    said = (alert if is_alert else reason or "unknown reason").lower().replace("_", " ")
    return f"the client refuses it: {said}" if is_alert else said
