"""How a job ended: with a result, or with a failure that says whether the job was submitted."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import Code
from shared.lifecycle import Submitted

__all__ = ["Failed", "Outcome", "Succeeded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The callback came in time and does not report a failure."""

    #: The callback's body, byte for byte, or the part of it that is the result.
    body: bytes
    #: Its media type; empty: JSON.
    content_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """There is no result, for this reason."""

    #: What happened.
    code: Code
    #: One sentence for a person; never contains a token, a body or a traceback.
    detail: str
    #: Whether the job was submitted to the job server.
    submitted: Submitted
    #: The callback's body, if the callback itself reported the failure; always as JSON.
    result: bytes | None = None


Outcome = Succeeded | Failed
