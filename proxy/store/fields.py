"""Converts the fields of records to the texts that databases store, and back."""

from __future__ import annotations

import json
from typing import Final

from proxy.store.record import LEAST_CHARACTERS
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed

__all__ = ["FAILURES_AMONG", "SMALL_BYTES", "failure_of", "ids_called", "names_called", "storable"]

#: The last failures are looked for among this many of the newest finished jobs; larger bodies are left out.
FAILURES_AMONG: Final = 5_000
SMALL_BYTES: Final = 65_536
#: Sorts after every character of an id.
_LAST: Final = "~"


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


def names_called(text: str) -> str:
    """Return what the stored JSON of a mapping contains if `text` is one of its values.

    Other JSON may contain it too, so `Record.is_called` has to confirm each match.
    """
    return f": {json.dumps(text)}"


def ids_called(text: str) -> tuple[str, str]:
    """Return the bounds of the ids that begin with `text`: inclusive, exclusive. An empty range if it is too short."""
    return (text, text + _LAST) if len(text) >= LEAST_CHARACTERS else ("", "")
