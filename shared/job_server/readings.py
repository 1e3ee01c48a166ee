"""How a message is classified: its state, in one of two lists or not yet, and what it carries. The same everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from shared.job_server.callback_tokens import without_tokens
from shared.job_server.expressions import compile_expression, plain_path, text_of
from shared.job_server.profile import Reading
from shared.job_server.verdict import Kind, Verdict
from shared.strict_json import text_at

__all__ = ["Outputs", "Part", "Reader", "error_text", "text_as_json"]

#: A reason and an output that are longer are cut, or none: they go into logs, records and URLs.
_MAX_ERROR_CHARACTERS: Final = 500
_MAX_OUTPUT_CHARACTERS: Final = 2_000
_MAX_TEXT_BYTES: Final = 10_000


class Reader:
    """Reads messages of one kind."""

    def __init__(self, reading: Reading, outputs: Mapping[str, str]) -> None:
        self._state = compile_expression(reading.state)
        self._succeeded = frozenset(reading.succeeded)
        self._failed = frozenset(reading.failed)
        self._error = compile_expression(reading.error) if reading.error else None
        self._result = Part(reading.result)
        self._outputs = Outputs(outputs)

    def read(self, seen: Mapping[str, Any], body: bytes) -> Verdict:
        """Return what a message says; `seen` is what the expressions look at, and `body` its bytes."""
        state = text_of(self._state(seen))
        outputs = self._outputs.read(seen)
        if state in self._succeeded:
            return Verdict(kind=Kind.SUCCEEDED, state=state, result=self._result.of(seen, body), outputs=outputs)
        if state in self._failed:
            error = error_text(self._error(seen)) if self._error is not None else ""
            result = text_as_json(body) if seen["body"] is None else None
            return Verdict(kind=Kind.FAILED, state=state, result=result, error=error, outputs=outputs)
        return Verdict(kind=Kind.PROGRESS, state=state, outputs=outputs)


class Part:
    """The part of a message that a client gets."""

    def __init__(self, expression: str) -> None:
        """An empty expression stands for the whole body."""
        self._expression = compile_expression(expression) if expression else None
        path = plain_path(expression) or ()
        self._exact = path[1:] if path[:1] == ("body",) else None

    def of(self, seen: Mapping[str, Any], body: bytes) -> bytes | None:
        """Return the part as JSON, in its exact text where a plain path names it; None: it is the whole body."""
        if self._expression is None:
            return None
        value = self._expression(seen)
        if self._exact is not None and value is not None:
            text = text_at(body.decode("utf-8", "replace"), self._exact)
            if text is not None:
                return text.encode()
        return _json(value)


class Outputs:
    """The names for parts of a message."""

    def __init__(self, outputs: Mapping[str, str]) -> None:
        self._expressions = [(name, compile_expression(text)) for name, text in outputs.items()]

    def read(self, seen: Mapping[str, Any]) -> dict[str, str]:
        """Return the outputs that have a value."""
        if not self._expressions:
            return {}
        found = ((name, text_of(expression(seen))) for name, expression in self._expressions)
        return {name: text for name, text in found if text and len(text) <= _MAX_OUTPUT_CHARACTERS}


def error_text(value: object) -> str:
    """Return a reason as one text for a person: a string as it is, anything else but null as JSON."""
    text = without_tokens(value if isinstance(value, str) else "" if value is None else json.dumps(value))
    return text if len(text) <= _MAX_ERROR_CHARACTERS else f"{text[:_MAX_ERROR_CHARACTERS]}…"


def text_as_json(body: bytes) -> bytes:
    """Return a body that is not JSON as a JSON string, cut where it is long: it stands in a problem document."""
    return json.dumps(body[:_MAX_TEXT_BYTES].decode("utf-8", "replace")).encode()


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:  # 1e400 in the text is infinite to Python, and JSON has no word for that
        return b"null"
