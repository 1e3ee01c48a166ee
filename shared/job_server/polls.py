"""Reads the answers to calls about a job: its status, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.job_server.documents import document_of
from shared.job_server.profile import Result, Status
from shared.job_server.verdict import Kind, Part, Reader, Verdict

__all__ = ["Fetched", "FetchedKind", "Results", "Statuses"]

#: The job server has no answer yet: it is asked again.
_NOT_YET: Final = frozenset({202, 404, 409, 425, 429})


class Statuses:
    """Reads the answers to status calls."""

    def __init__(self, status: Status) -> None:
        self._reader = Reader(status, {})

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """Return what an answer says. Anything but 2xx says nothing, whatever its body says."""
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own
            return Verdict(kind=Kind.PROGRESS)
        document = document_of(body, headers.get("content-type", ""))
        seen = {"status": status, "headers": headers, "body": document.value}
        return self._reader.read(seen, body, is_json=document.is_json)


class FetchedKind(StrEnum):
    """The kinds of answers to a result call."""

    READY = "ready"
    NOT_YET = "not-yet"
    #: There is no result, and there will be none.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An answer to a result call, interpreted."""

    kind: FetchedKind
    #: READY: the part that the profile selects, as JSON; None: the whole body.
    result: bytes | None = None


class Results:
    """Reads the answers to result calls."""

    def __init__(self, result: Result) -> None:
        self._part = Part(result.result)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Fetched:
        """Return the interpreted answer."""
        if status in _NOT_YET or status >= 500 or status < 200:  # noqa: PLR2004 - HTTP's own
            return Fetched(kind=FetchedKind.NOT_YET)
        if status >= 300:  # noqa: PLR2004 - no redirect is followed
            return Fetched(kind=FetchedKind.FAILED)
        document = document_of(body, headers.get("content-type", ""))
        seen = {"status": status, "headers": headers, "body": document.value}
        return Fetched(kind=FetchedKind.READY, result=self._part.of(seen, body))
