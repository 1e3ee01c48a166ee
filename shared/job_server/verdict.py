"""What a callback says of its job: the one place where a callback's body is read for its meaning."""

from __future__ import annotations

from typing import Final

from shared import strict_json
from shared.errors import Code, StrictJSONError
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome, Succeeded

__all__ = ["job_failed", "outcome_of", "says_failed"]

_FAILED_STATES: Final = frozenset({"failed", "error"})


def says_failed(callback: bytes) -> bool:
    """Return whether a callback's body says that the job failed."""
    try:
        document = strict_json.loads(callback)
    except StrictJSONError:
        return False
    state = document.get("state") if isinstance(document, dict) else None
    return isinstance(state, str) and state in _FAILED_STATES


def job_failed(callback: bytes) -> Failed:
    """Return the failure of a job whose callback says that it failed; the same words whoever asks, and whenever."""
    return Failed(
        code=Code.JOB_FAILED,
        detail="the job server's callback says that the job failed",
        submitted=Submitted.YES,
        result=callback,
    )


def outcome_of(callback: bytes, *, failed: bool) -> Outcome:
    """Return the outcome that a callback's body stands for; `failed` is what `says_failed` found."""
    return job_failed(callback) if failed else Succeeded(body=callback)
