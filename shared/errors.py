"""The codes of all failures, and the tree of our exceptions.

    ProxyError
    ├── SettingsError            an invalid setting; the proxy does not start
    ├── MessageError             bytes from another process that are not a message
    ├── StrictJSONError          bytes that are not JSON as RFC 8259 and this proxy require it
    ├── RequestError             the client's request is invalid (4xx)
    │   └── ParameterError       one of its parameters is invalid
    ├── AdmissionError           no job was created; a retry may succeed (503, 429)
    ├── StoreUnavailableError    the store of jobs cannot be read or written now
    ├── TakenError               a stored record excludes the one to be stored (proxy/store/protocol.py)
    ├── QueueError               a call to the queue service failed
    └── JobServerError           the submission failed; raised in a worker only
        ├── UnavailableError     it could not be reached, or the connection broke
        ├── RejectedError        its answer was not 2xx
        └── BadReplyError        its reply does not follow the protocol

The table from code to HTTP is proxy/http/problems.py; a test makes sure that it has every code.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = [
    "AdmissionError",
    "BadReplyError",
    "Code",
    "JobServerError",
    "MessageError",
    "ParameterError",
    "ProxyError",
    "QueueError",
    "RejectedError",
    "RequestError",
    "SettingsError",
    "StoreUnavailableError",
    "StrictJSONError",
    "UnavailableError",
]


class Code(StrEnum):
    """The `code` of a problem: stable, machine-readable, documented at /problems/<code>."""

    INVALID_REQUEST = "invalid-request"
    MALFORMED_REQUEST = "malformed-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    REQUEST_TIMEOUT = "request-timeout"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    TOO_MANY_ATTEMPTS = "too-many-attempts"
    HEADERS_TOO_LARGE = "headers-too-large"
    INTERNAL_ERROR = "internal-error"
    NOT_IMPLEMENTED = "not-implemented"
    OVERLOADED = "overloaded"
    NO_WORKER = "no-worker"
    JOURNAL_UNAVAILABLE = "journal-unavailable"
    INTAKE_PAUSED = "intake-paused"
    SHUTTING_DOWN = "shutting-down"
    HTTP_VERSION_NOT_SUPPORTED = "http-version-not-supported"
    WORKER_DIED = "worker-died"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    JOB_SERVER_UNAVAILABLE = "job-server-unavailable"
    JOB_REJECTED = "job-rejected"
    BAD_JOB_SERVER_REPLY = "bad-job-server-reply"
    JOB_FAILED = "job-failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class ProxyError(Exception):
    """The root of all exceptions that this project raises."""


class SettingsError(ProxyError):
    """An invalid setting. The message is the line that a user sees: name, value, what it takes."""


class MessageError(ProxyError):
    """Bytes that are not a message, or a message that is too large."""


class StrictJSONError(ProxyError):
    """Bytes that are not acceptable JSON; the message says why and may be shown to the sender."""


class RequestError(ProxyError):
    """A request that cannot become a job, or asks for something that does not exist.

    `fate_known` is true when it is certain that no earlier request has begun this very job with the same key.
    `parameter` is the name of the invalid parameter, if there is one.
    """

    parameter: str | None = None

    def __init__(self, code: Code, detail: str, *, fate_known: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.fate_known = fate_known


class ParameterError(RequestError):
    """A parameter of a request about jobs is unknown or invalid; `parameter` is its name."""

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(Code.INVALID_REQUEST, detail)
        self.parameter = parameter


class AdmissionError(ProxyError):
    """The request is valid but the proxy accepts no job now; nothing was submitted.

    `retry_after_s` is the number of seconds after which to retry. `fate_known`: see RequestError.
    """

    def __init__(self, code: Code, detail: str, *, retry_after_s: int = 1, fate_known: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.fate_known = fate_known


class StoreUnavailableError(ProxyError):
    """The store of jobs cannot be read or written now; the message says why."""


class QueueError(ProxyError):
    """A call to the queue service failed; the message says why and contains no secret.

    `code` is the service's error code; empty if it did not answer. `refused` is true when a retry is useless.
    """

    def __init__(self, detail: str, *, code: str = "", refused: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.refused = refused


class JobServerError(ProxyError):
    """A submission failed.

    `refused` is true when it is certain that the job server started no job; only then may the job be submitted again.
    `retryable` is true when a retry may succeed. `retry_after_s` is the pause that the job server asked for.
    `lost_reply` is true when the submission was sent and the connection broke before the end of the reply.
    """

    code: Code

    def __init__(
        self,
        detail: str,
        *,
        refused: bool = False,
        retryable: bool = False,
        retry_after_s: float | None = None,
        lost_reply: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.refused = refused
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.lost_reply = lost_reply

    def because(self, reason: str) -> Self:
        """Add the job server's reason to the detail, unless it is empty; return the error."""
        if reason:
            self.detail = f"{self.detail}: {reason}"
        return self


class UnavailableError(JobServerError):
    """The job server could not be reached, or the connection to it broke."""

    code = Code.JOB_SERVER_UNAVAILABLE


class RejectedError(JobServerError):
    """The job server's answer was not 2xx."""

    code = Code.JOB_REJECTED


class BadReplyError(JobServerError):
    """The job server's reply does not follow the protocol."""

    code = Code.BAD_JOB_SERVER_REPLY
