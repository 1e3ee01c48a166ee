"""What records hold, as the texts that databases take, and back."""

from __future__ import annotations

from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed

__all__ = ["failure_of", "storable"]


def failure_of(code: str | None, detail: str, submitted: str) -> Failed | None:
    """Return the failure that was recorded with these words; None if there was none."""
    if code is None:
        return None
    try:
        known = Code(code)
    except ValueError:  # a later version has more codes; what it said of the submission still holds
        known, detail = Code.INTERNAL_ERROR, f"{code}: {detail}"
    return Failed(code=known, detail=detail, submitted=Submitted(submitted))


def storable(text: str) -> str:
    """Return `text` without lone surrogates, which no database can store."""
    return text.encode("utf-8", "backslashreplace").decode()
