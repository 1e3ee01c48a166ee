"""Reads the answers to calls about a job: its status, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from shared.job_server.documents import document_of, why_not_json
from shared.job_server.profile import Result, Status
from shared.job_server.verdict import Kind, Part, Reader, Verdict, text_as_json

__all__ = ["Results", "Statuses"]

#: The job server has no answer yet: it is asked again.
_NOT_YET: Final = frozenset({202, 404, 408, 409, 425, 429})
#: What is wrong with an answer.
_STATUS: Final = "asked for the job's status, the job server {}"
_RESULT: Final = "asked for the job's result, the job server {}"


class Statuses:
    """Reads the answers to status calls."""

    def __init__(self, status: Status) -> None:
        self._reader = Reader(status, status.outputs)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """Return what an answer says. Anything but 2xx says nothing, whatever its body says."""
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own
            return Verdict(kind=Kind.PROGRESS, error=_STATUS.format(f"answered {status}"))
        document = document_of(body, headers.get("content-type", ""))
        seen = {"status": status, "headers": headers, "body": document.value}
        verdict = self._reader.read(seen, body, is_json=document.is_json)
        if verdict.state or verdict.kind is not Kind.PROGRESS:
            return verdict
        is_read = document.value is not None or document.is_json
        why = "gave an answer without a state" if is_read else f"gave an unreadable answer: {why_not_json(body)}"
        return replace(verdict, error=_STATUS.format(why))


class Results:
    """Reads the answers to result calls."""

    def __init__(self, result: Result) -> None:
        self._part = Part(result.result)
        self._reads_body = "body" in result.result

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """Return what an answer says: it has the result, or the result may still come, or there will be none."""
        if not 200 <= status < 300 or status in _NOT_YET:  # noqa: PLR2004 - HTTP's own
            error = _RESULT.format(f"answered {status}")
            if 400 <= status < 500 and status not in _NOT_YET:  # noqa: PLR2004 - HTTP's own
                result = None if document_of(body).is_json else text_as_json(body)
                return Verdict(kind=Kind.FAILED, result=result, error=error)
            return Verdict(kind=Kind.PROGRESS, error=error)
        document = document_of(body, headers.get("content-type", ""))
        if self._reads_body and document.value is None and not document.is_json:
            why = f"gave an unreadable answer: {why_not_json(body)}"
            return Verdict(kind=Kind.PROGRESS, error=_RESULT.format(why))
        seen = {"status": status, "headers": headers, "body": document.value}
        return Verdict(kind=Kind.SUCCEEDED, result=self._part.of(seen, body))
