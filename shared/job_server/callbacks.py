"""What a callback says about its job: the one place where callbacks are interpreted, with one parse of the body."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from msgspec import Struct

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.documents import Document, document_of, fields_of_query, why_not_json
from shared.job_server.expressions import body_members, compile_expression, only_body, plain_path, text_of
from shared.job_server.partial_json import ExactPart, PartialReader
from shared.job_server.profile import Callback
from shared.job_server.verdict import FINAL, Kind, Reader, Verdict

__all__ = ["Callbacks", "Received"]

#: Of a larger body, JMESPath may take many milliseconds.
_LARGE_BYTES: Final = 16_384


class Received(Struct, frozen=True, kw_only=True):
    """A callback as received, inflated if it was gzip."""

    method: str = "POST"
    #: What follows the token in the URL: the NAME of `{callback_url/NAME}`.
    route: str = ""
    query: str = ""
    #: As ASGI has them: names in lower case.
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes

    def header(self, name: bytes) -> str:
        """Return the first header of this name, which is in lower case; empty if there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


class Callbacks:
    """Reads callbacks."""

    def __init__(self, callback: Callback) -> None:
        """Read them as `callback` describes."""
        self._json_only = callback.json_only
        self._notification_only = callback.notification_only
        self._has_state = bool(callback.state)
        self._reads_body = "body" in callback.state
        path = plain_path(callback.result) or ()
        is_exact = len(path) > 1 and path[0] == "body"
        part = ExactPart(callback.result, path[1:]) if is_exact else None
        self._reader = Reader(callback, callback.outputs, part)
        self._correlate = compile_expression(callback.correlate)
        self._challenge = compile_expression(callback.challenge)
        words = [callback.state, callback.error, callback.correlate, callback.challenge, *callback.outputs.values()]
        self._only_body = only_body(callback.result, *words)
        self._partial = _partial_reader("" if is_exact else callback.result, words)
        self._is_plain = all(plain_path(text) is not None for text in (callback.result, *words) if text)

    def takes_long(self, received: Received) -> bool:
        """Return whether reading a callback may take so long that nothing else should wait for it."""
        return not self._is_plain and len(received.body) > _LARGE_BYTES

    def read(self, received: Received) -> Verdict:
        """Return what a callback says.

        Raises:
            StrictJSONError: it is not JSON, and the profile knows no other kind.
        """
        document = self._document(received)
        verdict = self._reader.read(self._seen(received, document.value), received.body, is_json=document.is_json)
        if self._notification_only and (verdict.kind in FINAL or not self._has_state):
            return Verdict(kind=Kind.NOTIFICATION, state=verdict.state, outputs=verdict.outputs)
        has_body = self._reads_body and received.method != "GET"
        if verdict.kind is Kind.PROGRESS and has_body and document.value is None and not document.is_json:
            return replace(verdict, error=f"the last callback could not be read: {why_not_json(received.body)}")
        return verdict

    def correlation(self, received: Received) -> str:
        """Return what identifies the job of a callback at a fixed URL; empty if nothing does."""
        return text_of(self._correlate(self._seen(received, self._document(received).value)))

    def challenge(self, received: Received) -> str:
        """Return what a job server that tests its fixed URL wants to get back; empty: it does not test it."""
        try:
            return text_of(self._challenge(self._seen(received, self._document(received).value)))
        except StrictJSONError:
            return ""

    def _document(self, received: Received) -> Document:
        """Return what the expressions see of the body."""
        if self._json_only:
            return Document(self._parse(received.body), is_json=True)
        return document_of(received.body, received.header(b"content-type"), self._parse)

    def _parse(self, body: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
        if self._partial is None:
            return strict_json.loads(body)
        members = self._partial.read(body)
        return [] if members is None else members  # JSON in which an expression cannot find anything

    def _seen(self, received: Received, body: object) -> dict[str, Any]:
        """Return what the expressions look at: only the body if they need nothing else."""
        if self._only_body:
            return {"body": body}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(received.headers)}
        return {
            "method": received.method,
            "route": received.route,
            "query": fields_of_query(received.query),
            "headers": headers,
            "body": body,
        }


def _partial_reader(result: str, words: Iterable[str]) -> PartialReader | None:
    """Return a reader for the members of the body that these expressions read; None: one may need the whole body.

    `words` are expressions for short values. If one of them selects a whole member, a large value there is useless.
    """
    needed, short = set[str](), set[str]()
    for text in (result, *words):
        members = body_members(text)
        if members is None:
            return None
        is_word = text != result and len(plain_path(text) or ()) == 2  # noqa: PLR2004 - `body` and the member
        (short if is_word else needed).update(members)
    return PartialReader(sorted(needed | short), short - needed)
