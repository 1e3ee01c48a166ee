"""Reads from certificate files when the certificates expire. Blocks."""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["digest", "shown"]

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_SEQUENCE, _EXPLICIT_VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
#: The object identifier 2.5.4.3 in DER.
_COMMON_NAME: Final = b"\x06\x03\x55\x04\x03"
_LONG: Final = 0x80


def digest(path: str) -> str:
    """Return a hash of a file, by which it is recognised; empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def shown(setting: str, path: str, *, each_alone: bool = False, used: str = "") -> dict[str, Any]:
    """Return a description of a file's certificates for operators: of the one that expires first.

    `each_alone`: they are authorities, not a chain. Then expired ones are no trouble as long as one is valid; their
    number is returned. `used`: the hash of the file that is in use; empty: always the current one.
    """
    found: dict[str, Any] = {
        "setting": setting, "file": path, "subject": None, "ends_at": None, "left_s": None, "trouble": "",
        "expired": 0, "count": 0,
    }  # fmt: skip
    now = time.time()
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
        all_ends = sorted(_end_of(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(text))
        valid = [end for end in all_ends if end[0] > now]
        ends = (valid or all_ends[-1:])[0] if each_alone else all_ends[0]
    except OSError as exc:
        found["trouble"] = f"it cannot be read: {exc.strerror}"
    except (ValueError, IndexError):
        found["trouble"] = "it has no certificate that can be read"
    else:
        found["ends_at"], found["subject"] = ends
        found["left_s"] = round(found["ends_at"] - now, 1)
        found["expired"], found["count"] = len(all_ends) - len(valid), len(all_ends)
        if found["left_s"] < 0:
            found["trouble"] = "it is no longer valid"
        elif used and used != digest(path):
            found["trouble"] = "an earlier one is used until SIGHUP"
    return found


def _end_of(der: bytes) -> tuple[float, str]:
    """Return until when a certificate is valid, in Unix seconds, and its subject's common name (RFC 5280, 4.1).

    Raises:
        ValueError, IndexError: it is not a certificate.
    """
    (_, certificate), *_ = _items(der)
    (_, signed), *_ = _items(certificate)
    members = list(_items(signed))
    if members[0][0] == _EXPLICIT_VERSION:
        del members[0]
    _serial, _algorithm, _issuer, (kind, validity), (_, subject), *_ = members
    if kind != _SEQUENCE:
        raise ValueError
    _, (kind, until) = _items(validity)
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    ends = datetime.strptime(until.decode("ascii"), form).replace(tzinfo=UTC).timestamp()
    _, mark, rest = subject.rpartition(_COMMON_NAME)
    name = next(_items(rest))[1].decode(errors="replace") if mark else ""
    return ends, name if name.isprintable() else ""


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the contents of each item."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length >= _LONG:
            size = length - _LONG
            length = int.from_bytes(der[at : at + size])
            at += size
        if at + length > len(der):
            raise ValueError
        yield tag, der[at : at + length]
        at += length
