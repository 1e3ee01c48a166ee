"""The answer to a job, as its client sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.http import Answer

__all__ = ["Reply"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a job, and when it came."""

    ref: str
    answer: Answer
    sent_at: float
    answered_at: float
    #: How much of the time between went by while those that took part in it had no processor.
    starved_s: float

    @property
    def own_s(self) -> float:
        """From the request to the whole answer, less what is the machine's doing."""
        return self.took_s - self.starved_s

    def own_since_s(self, at: float) -> float:
        """From the instant `at`, when it was under way, to the whole answer, less the same."""
        return self.answered_at - at - self.starved_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.answer.status

    @property
    def document(self) -> Any:  # noqa: ANN401 - JSON is what it is
        """The body, parsed."""
        return self.answer.document

    @property
    def code(self) -> str | None:
        """The problem's code; None for a result."""
        return None if self.status == 200 else str(self.document["code"])

    @property
    def submitted(self) -> str:
        """What the answer says about the job server."""
        return "yes" if self.status == 200 else str(self.document["submitted"])

    @property
    def summary(self) -> tuple[int, str | None, str]:
        """What a row of the matrix names: status, code, submitted."""
        return self.status, self.code, self.submitted

    @property
    def job_id(self) -> str | None:
        """The job's id; None where no job was made."""
        return self.answer.headers.get("Job-Id")

    @property
    def took_s(self) -> float:
        """From the request to the whole answer."""
        return self.answered_at - self.sent_at
