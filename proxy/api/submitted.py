"""What the refusal of a request says about its job: `submitted` where no job answers for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

from proxy.http.asgi import headers_of, path_of
from shared.errors import AdmissionError, RequestError
from shared.lifecycle import Submitted

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["submitted_of"]

#: How the paths of requests for new jobs begin.
_NEW_JOBS: Final = ("/queueJob", "/start")


def submitted_of(exc: Exception, scope: Scope) -> Submitted:
    """Return what the refusal of a request, by this exception, may say about its job's submission.

    A refused job request has submitted nothing. But a request for an existing job, by its id, callback token or
    message, or with a key that an earlier request may have used, is about a job that nobody has looked up. So may be a
    request to an unknown route or with another method: its path may be that of a job, misspelt. A gateway's prefix and
    a job server's path say nothing.
    """
    path = path_of(scope)
    about_a_job = not path.startswith(_NEW_JOBS) and ("/jobs" in path or "/callback" in path)
    if about_a_job or isinstance(exc, HTTPException) or scope.get("method") != "POST":
        return Submitted.UNKNOWN
    known = isinstance(exc, RequestError | AdmissionError) and exc.fate_known
    return Submitted.UNKNOWN if headers_of(scope, b"idempotency-key") and not known else Submitted.NO
