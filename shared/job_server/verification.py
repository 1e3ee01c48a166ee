"""Whether a callback comes from the job server: a header with an agreed value, or a signature of the body.

All comparisons take constant time, and all signatures are verified over the received bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Final, assert_never

from shared.job_server.callbacks import Received
from shared.job_server.placeholders import UnfilledError, fill
from shared.job_server.profile import Verify

__all__ = ["Verifier"]

#: The most that a timestamp may differ from now, in seconds: as in the reference implementations of Standard Webhooks.
_TOLERANCE_S: Final = 300
_TIMESTAMP_DIGITS: Final = 12
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - not a secret
_STANDARD: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
#: RFC 4648, section 5.
_URL_SAFE: Final = str.maketrans("-_", "+/")


class Verifier:
    """Verifies callbacks."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._header = verify.header.lower().encode()
        self._needed = _STANDARD if verify.scheme == "standard-webhooks" else (verify.header,)

    def is_genuine(self, received: Received, raw: bytes, values: Mapping[str, str], now: float) -> bool:
        """Return whether a callback comes from the job server.

        `raw` is the body before it was inflated, `values` are those of the job's placeholders, `now` is Unix time in
        seconds. A signature of the inflated body counts as well.
        """
        try:
            match self._verify.scheme:
                case "header":
                    return self._has_header(received, values)
                case "hmac":
                    return any(self._is_signed(received, body, values) for body in _bodies(raw, received.body))
                case "standard-webhooks":
                    bodies = _bodies(raw, received.body)
                    return any(self._is_standard(received, body, values, now) for body in bodies)
                case never:
                    assert_never(never)
        except UnfilledError:
            return False  # without a secret, nothing can be verified

    def lack(self, received: Received, now: float) -> str:
        """Return what is wrong with a callback's proof whatever the secret is; empty if nothing is."""
        for name in self._needed:
            if not _header(received, name):
                return f"it has no header {name}"
        if not received.header(self._header).startswith(self._verify.prefix):
            return f"its header {self._verify.header} does not begin with {self._verify.prefix}"
        if self._verify.scheme != "standard-webhooks":
            return ""
        at = _unix_time(received)
        if at is None:
            return "its timestamp is no Unix time in seconds"
        away_s = round(at - now)
        is_late = f"its timestamp is {abs(away_s)} s {'behind' if away_s < 0 else 'ahead of'} this machine's clock"
        return is_late if abs(away_s) > _TOLERANCE_S else ""

    def _has_header(self, received: Received, values: Mapping[str, str]) -> bool:
        wanted = fill(self._verify.value, values)
        given = received.header(self._header)
        texts = (given, given.encode("latin-1").decode("utf-8", "replace"))  # senders use either encoding
        return bool(wanted) and any(hmac.compare_digest(one.encode(), wanted.encode()) for one in texts)

    def _is_signed(self, received: Received, body: bytes, values: Mapping[str, str]) -> bool:
        verify = self._verify
        digest = hmac.new(fill(verify.secret, values).encode(), body, getattr(hashlib, verify.hash)).digest()
        wanted = digest.hex() if verify.encoding == "hex" else base64.b64encode(digest).decode()
        given = received.header(self._header)
        return any(
            hmac.compare_digest(_in_one_form(one[len(verify.prefix) :], verify.encoding), wanted.rstrip("=").encode())
            for one in map(str.strip, (given, *given.split(",")))
            if one.startswith(verify.prefix)
        )

    def _is_standard(self, received: Received, body: bytes, values: Mapping[str, str], now: float) -> bool:
        """Verify according to the Standard Webhooks specification: standardwebhooks.com."""
        message_id, timestamp, signatures = (_header(received, name) for name in _STANDARD)
        at = _unix_time(received)
        if at is None or abs(at - now) > _TOLERANCE_S:
            return False
        key = _key(fill(self._verify.secret, values).strip())
        if not key:
            return False  # everybody knows it
        content = b"%b.%b.%b" % (message_id.encode("latin-1"), timestamp.encode(), body)
        wanted = b"v1," + base64.b64encode(hmac.digest(key, content, "sha256"))
        return any(hmac.compare_digest(one.encode(), wanted) for one in signatures.split())


def _header(received: Received, name: str) -> str:
    """Return a header; of Standard Webhooks, also by the name that Svix, from where they come, has for it."""
    found = received.header(name.lower().encode())
    return found or (received.header(name.replace("webhook-", "svix-").encode()) if name in _STANDARD else "")


def _unix_time(received: Received) -> int | None:
    timestamp = _header(received, "webhook-timestamp")
    is_time = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS
    return int(timestamp) if is_time else None


def _bodies(raw: bytes, inflated: bytes) -> Iterator[bytes]:
    yield raw
    if inflated != raw:
        yield inflated


def _in_one_form(signature: str, encoding: str) -> bytes:
    """Return a signature as this file writes it: hexadecimal in lower case, base64 without padding, not URL-safe."""
    text = signature.lower() if encoding == "hex" else signature.rstrip("=").translate(_URL_SAFE)
    return text.encode()


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
