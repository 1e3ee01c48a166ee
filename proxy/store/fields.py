"""Converts the fields of records to the texts that databases store, and back."""

from __future__ import annotations

from typing import Final

from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed

__all__ = ["FAILURES_AMONG", "SMALL_BYTES", "failure_of", "storable"]

#: The last failures are looked for among this many of the newest finished jobs; larger bodies are left out.
FAILURES_AMONG: Final = 5_000
SMALL_BYTES: Final = 65_536


def failure_of(code: str | None, detail: str, submitted: str) -> Failed | None:
    """Return the failure that was recorded with these values; None if there was none."""
    if code is None:
        return None
    try:
        known = Code(code)
    except ValueError:  # a code of a later version; its `submitted` still holds
        known, detail = Code.INTERNAL_ERROR, f"{code}: {detail}"
    return Failed(code=known, detail=detail, submitted=Submitted(submitted))


def storable(text: str) -> str:
    """Return `text` without lone surrogates, which no database can store."""
    return text.encode("utf-8", "backslashreplace").decode()
