"""The answer to a job, as its client sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.http import Answer

__all__ = ["Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a job, with its times."""

    ref: str
    answer: Answer
    sent_at: float
    answered_at: float
    #: How much of its time its processes waited for CPU time.
    starved_s: float

    @property
    def own_s(self) -> float:
        """Return the seconds from the request to the whole answer, less waiting for CPU time."""
        return self.took_s - self.starved_s

    def own_since_s(self, at: float) -> float:
        """Return the seconds from the instant `at`, within the request, to the whole answer, less the same."""
        return self.answered_at - at - self.starved_s

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self.answer.status

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON is what it is
        """Return the parsed body."""
        return self.answer.document

    @property
    def code(self) -> str | None:
        """Return the problem's code; None for a result."""
        return None if self.status == 200 else str(self.document["code"])

    @property
    def submitted(self) -> str:
        """Return the answer's `submitted`."""
        return "yes" if self.status == 200 else str(self.document["submitted"])

    @property
    def summary(self) -> tuple[int, str | None, str]:
        """Return what a row of the matrix names: status, code, submitted."""
        return self.status, self.code, self.submitted

    @property
    def job_id(self) -> str | None:
        """Return the job's id; None if no job was made."""
        return self.answer.headers.get("Job-Id")

    @property
    def took_s(self) -> float:
        """Return the seconds from the request to the whole answer."""
        return self.answered_at - self.sent_at
