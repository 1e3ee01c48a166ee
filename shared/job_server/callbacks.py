"""What a callback says of its job: the one place where a callback is read for its meaning, in one parse of its body."""

from __future__ import annotations

from dataclasses import dataclass

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.expressions import compile_expression, text_of
from shared.job_server.profile import Callback
from shared.job_server.verdict import Kind, Verdict

__all__ = ["Callbacks", "Received"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A callback as it came."""

    body: bytes


class Callbacks:
    """Reads callbacks."""

    def __init__(self, callback: Callback) -> None:
        """Read them as `callback` says."""
        self._json_only = callback.json_only
        self._state = compile_expression(callback.state)
        self._succeeded = frozenset(callback.succeeded)
        self._failed = frozenset(callback.failed)

    def read(self, received: Received) -> Verdict:
        """Return what a callback says.

        Raises:
            StrictJSONError: it is not JSON, and the profile knows no others.
        """
        try:
            document = strict_json.loads(received.body)
        except StrictJSONError:
            if self._json_only:
                raise
            document = None
        state = text_of(self._state({"body": document}))
        if state in self._succeeded:
            kind = Kind.SUCCEEDED
        elif state in self._failed:
            kind = Kind.FAILED
        else:
            kind = Kind.PROGRESS
        return Verdict(kind=kind, state=state)
