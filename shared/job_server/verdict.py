"""A callback's meaning for its job, and the outcome that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome, Succeeded

__all__ = ["Kind", "Verdict", "job_failed", "outcome_of"]


class Kind(StrEnum):
    """What a callback, or the answer to a status call, says."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: The job is not over.
    PROGRESS = "progress"
    #: The job may be over: the job server has to be asked.
    NOTIFICATION = "notification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a callback, or the answer to a status call, says of its job."""

    kind: Kind
    #: The state that it names, as text; empty where it names none.
    state: str = ""
    #: What the client gets, as JSON; None: the whole body.
    result: bytes | None = None
    #: After a failure, the job server's reason; empty where it gives none.
    error: str = ""
    #: What later calls about the job need, by the profile's names.
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it says that the job failed."""
        return self.kind is Kind.FAILED


def job_failed(callback: bytes, error: str = "") -> Failed:
    """Return the failure of a job that the job server reports as failed; always in the same words.

    `error` is the job server's reason, if it gave one.
    """
    return Failed(
        code=Code.JOB_FAILED,
        detail="the job server says that the job failed" + (f": {error}" if error else ""),
        submitted=Submitted.YES,
        result=callback,
    )


def outcome_of(callback: bytes, *, failed: bool, content_type: str = "", error: str = "") -> Outcome:
    """Return the outcome that a final callback's body stands for; `failed` is what its verdict says."""
    return job_failed(callback, error) if failed else Succeeded(body=callback, content_type=content_type)
