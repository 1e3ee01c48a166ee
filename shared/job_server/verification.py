"""Whether a callback comes from the job server: a header with an agreed value, or a signature of the body and more.

All comparisons take constant time, and all signatures are verified over the received bytes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator, Mapping
from typing import Final, assert_never

from shared.job_server.callbacks import Received
from shared.job_server.placeholders import UnfilledError, fill
from shared.job_server.profile import Verify

__all__ = ["Verifier"]

#: The most that a timestamp may differ from now, in seconds: as in the reference implementations of Standard Webhooks.
_TOLERANCE_S: Final = 300
_TIMESTAMP_DIGITS: Final = 13
#: With as many digits, it is in milliseconds.
_MILLISECONDS: Final = 10**12
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - not a secret
_STANDARD: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
#: RFC 4648, section 5.
_URL_SAFE: Final = str.maketrans("-_", "+/")


class Verifier:
    """Verifies callbacks."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._header = verify.header.lower().encode()
        #: The header, or the element of one, that holds the timestamp; empty: there is none.
        self._timestamp = _STANDARD[1] if verify.scheme == "standard-webhooks" else verify.timestamp
        in_a_header = bool(verify.timestamp) and not verify.timestamp.endswith("=")
        own = (verify.header, verify.timestamp) if in_a_header else (verify.header,)
        self._needed = _STANDARD if verify.scheme == "standard-webhooks" else own

    def is_genuine(self, received: Received, raw: bytes, values: Mapping[str, str], now: float) -> bool:
        """Return whether a callback comes from the job server.

        `raw` is the body before it was inflated, `values` are those of the job's placeholders and the `url` that was
        called, `now` is Unix time in seconds. A signature of the inflated body counts as well.
        """
        if self._timestamp and not self._is_recent(received, now):
            return False
        try:
            match self._verify.scheme:
                case "header":
                    return self._has_header(received, values)
                case "hmac":
                    return any(self._is_signed(received, body, values) for body in _bodies(raw, received.body))
                case "standard-webhooks":
                    bodies = _bodies(raw, received.body)
                    return any(self._is_standard(received, body, values) for body in bodies)
                case never:
                    assert_never(never)
        except UnfilledError:
            return False  # without a secret, nothing can be verified

    def lack(self, received: Received, now: float) -> str:
        """Return what is wrong with a callback's proof whatever the secret is; empty if nothing is."""
        for name in self._needed:
            if not _header(received, name):
                return f"it has no header {name}"
        if not any(one.startswith(self._verify.prefix) for one in self._elements(received)):
            return f"its header {self._verify.header} does not begin with {self._verify.prefix}"
        if not self._timestamp:
            return ""
        at = self._unix_time(received)
        if at is None:
            return "its timestamp is no Unix time in seconds or milliseconds"
        away_s = round(at - now)
        is_late = f"its timestamp is {abs(away_s)} s {'behind' if away_s < 0 else 'ahead of'} this machine's clock"
        return is_late if abs(away_s) > _TOLERANCE_S else ""

    def _is_recent(self, received: Received, now: float) -> bool:
        at = self._unix_time(received)
        return at is not None and abs(at - now) <= _TOLERANCE_S

    def _unix_time(self, received: Received) -> float | None:
        """Return the timestamp in seconds; None: there is no valid one."""
        timestamp = self._timestamp_in(received)
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS):
            return None
        return int(timestamp) if int(timestamp) < _MILLISECONDS else int(timestamp) / 1_000

    def _timestamp_in(self, received: Received) -> str:
        if not self._timestamp.endswith("="):
            return _header(received, self._timestamp)
        found = (one for one in self._elements(received) if one.startswith(self._timestamp))
        return next(found, "").removeprefix(self._timestamp)

    def _elements(self, received: Received) -> list[str]:
        """Return the header with the proof, split at its commas and semicolons, and as a whole."""
        given = received.header(self._header)
        return [one.strip() for one in (*given.replace(";", ",").split(","), given)]

    def _has_header(self, received: Received, values: Mapping[str, str]) -> bool:
        wanted = fill(self._verify.value, values)
        given = received.header(self._header)
        texts = (given, given.encode("latin-1").decode("utf-8", "replace"))  # senders use either encoding
        return bool(wanted) and any(hmac.compare_digest(one.encode(), wanted.encode()) for one in texts)

    def _is_signed(self, received: Received, body: bytes, values: Mapping[str, str]) -> bool:
        verify = self._verify
        key = fill(verify.secret, values).encode()
        known = {"timestamp": self._timestamp_in(received), "url": values.get("url", "")}
        around = (fill(part, known).encode() for part in verify.signed.partition("{body}")[::2])
        digest = hmac.digest(key, body.join(around), verify.hash)
        wanted = digest.hex() if verify.encoding == "hex" else base64.b64encode(digest).decode()
        return any(
            hmac.compare_digest(_in_one_form(one[len(verify.prefix) :], verify.encoding), wanted.rstrip("=").encode())
            for one in self._elements(received)
            if one.startswith(verify.prefix)
        )

    def _is_standard(self, received: Received, body: bytes, values: Mapping[str, str]) -> bool:
        """Verify according to the Standard Webhooks specification: standardwebhooks.com."""
        message_id, timestamp, signatures = (_header(received, name) for name in _STANDARD)
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
