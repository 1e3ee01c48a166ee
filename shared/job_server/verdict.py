"""What a message of the job server says about its job: the verdict, how it is read, and the resulting outcome.

Every message is read in the same way, whatever its kind: its state is in one of two lists, or the job is not over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from shared.errors import Code
from shared.job_server.callback_tokens import without_tokens
from shared.job_server.expressions import compile_expression, plain_path, text_of
from shared.job_server.profile import Reading
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome, Succeeded
from shared.strict_json import text_at

__all__ = ["FINAL", "Kind", "Part", "Reader", "Verdict", "error_text", "job_failed", "outcome_of", "text_as_json"]

#: A longer reason, or state of a job that goes on, is cut, and a longer output ignored: they go into messages, logs,
#: records and URLs. Signed URLs have some thousand characters, and few servers take one of more than 8,000.
_MAX_ERROR_CHARACTERS: Final = 500
_MAX_STATE_CHARACTERS: Final = 100
_MAX_OUTPUT_CHARACTERS: Final = 8_000
_MAX_TEXT_BYTES: Final = 10_000


class Kind(StrEnum):
    """The possible meanings of a callback or of the answer to a status call."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: The job is not over.
    PROGRESS = "progress"
    #: The job may be over: the job server has to be asked.
    NOTIFICATION = "notification"


#: The kinds that say how the job ended.
FINAL: Final = frozenset({Kind.SUCCEEDED, Kind.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a callback, or the answer to a status call, says about its job."""

    kind: Kind
    #: The state that it names, as text; empty if it names none.
    state: str = ""
    #: What the client gets, as JSON; None: the whole body.
    result: bytes | None = None
    #: After a failure, the job server's reason; empty if it gives none. Of a message that says nothing, why.
    error: str = ""
    #: What later calls about the job need, by the profile's names.
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it says that the job failed."""
        return self.kind is Kind.FAILED


class Reader:
    """Reads messages of one kind."""

    def __init__(self, reading: Reading, outputs: Mapping[str, str], result: Part | None = None) -> None:
        """`result` replaces the part that `reading` describes."""
        self._state = compile_expression(reading.state)
        self._succeeded = frozenset(reading.succeeded)
        self._failed = frozenset(reading.failed)
        self._error = compile_expression(reading.error) if reading.error else None
        self._result = result or Part(reading.result)
        self._outputs = [(name, compile_expression(text)) for name, text in outputs.items()]

    def read(self, seen: Mapping[str, Any], body: bytes, *, is_json: bool) -> Verdict:
        """Return what a message says; `seen` is what the expressions look at, and `body` its bytes.

        `is_json` says whether the bytes are JSON.
        """
        state = text_of(self._state(seen))
        outputs = self._read_outputs(seen)
        if state in self._succeeded:
            return Verdict(kind=Kind.SUCCEEDED, state=state, result=self._result.of(seen, body), outputs=outputs)
        if state in self._failed:
            error = error_text(self._error(seen)) if self._error is not None else ""
            result = None if is_json else text_as_json(body)
            return Verdict(kind=Kind.FAILED, state=state, result=result, error=error, outputs=outputs)
        return Verdict(kind=Kind.PROGRESS, state=state[:_MAX_STATE_CHARACTERS], outputs=outputs)

    def _read_outputs(self, seen: Mapping[str, Any]) -> dict[str, str]:
        """Return the outputs that have a value."""
        found = ((name, text_of(expression(seen))) for name, expression in self._outputs)
        return {name: text for name, text in found if 0 < len(text) <= _MAX_OUTPUT_CHARACTERS}


class Part:
    """The part of a message that a client gets."""

    def __init__(self, expression: str) -> None:
        """An empty expression stands for the whole body."""
        self._expression = compile_expression(expression) if expression else None
        path = plain_path(expression) or ()
        self._exact = path[1:] if path[:1] == ("body",) else None

    def of(self, seen: Mapping[str, Any], body: bytes) -> bytes | None:
        """Return the part as JSON, in its exact text if a plain path selects it; None: it is the whole body."""
        if self._expression is None:
            return None
        value = self._expression(seen)
        if self._exact is not None and value is not None:
            text = text_at(body.decode("utf-8", "replace"), self._exact)
            if text is not None:
                return text.encode()
        return _json(value)


def error_text(value: object) -> str:
    """Return a reason as one text for people: a string unchanged, anything else but null as JSON."""
    text = without_tokens(value if isinstance(value, str) else "" if value is None else json.dumps(value))
    return text if len(text) <= _MAX_ERROR_CHARACTERS else f"{text[:_MAX_ERROR_CHARACTERS]}…"


def text_as_json(body: bytes) -> bytes:
    """Return a body that is not JSON as a JSON string, truncated if long: it goes into a problem document."""
    return json.dumps(body[:_MAX_TEXT_BYTES].decode("utf-8", "replace")).encode()


def _json(value: object) -> bytes:
    """Return a value as JSON. Escapes would make texts up to three times as long, and so exceed the limit of a body."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its escape again
    except ValueError:  # 1e400 in the text is infinite in Python, and JSON has no notation for that
        return b"null"


def job_failed(callback: bytes, error: str = "") -> Failed:
    """Return the failure of a job that the job server reports as failed; the message is always the same.

    `error` is the job server's reason, if it gave one.
    """
    return Failed(
        code=Code.JOB_FAILED,
        detail="the job server says that the job failed" + (f": {error}" if error else ""),
        submitted=Submitted.YES,
        result=callback,
    )


def outcome_of(callback: bytes, *, failed: bool, content_type: str = "", error: str = "") -> Outcome:
    """Return the outcome of a final callback's body; `failed` is from its verdict."""
    return job_failed(callback, error) if failed else Succeeded(body=callback, content_type=content_type)
