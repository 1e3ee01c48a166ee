"""The submission of a client's job according to the profile's [submit], and the meaning of the reply.

For the workers. The client's own values keep their exact text, because parsing and writing JSON again changes numbers.
The reply says whether the job runs and, if not, whether that is certain.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.addresses import address
from shared.job_server.calls import Request, headers_of, merged
from shared.job_server.documents import document_of, why_not_json
from shared.job_server.expressions import compile_expression, is_true, only_body
from shared.job_server.placeholders import fill, has_placeholders, json_text
from shared.job_server.profile import Profile, Submit
from shared.job_server.verdict import Kind, Reader, Verdict, error_text
from shared.strict_json import members_of, object_of

__all__ = ["Replies", "Reply", "ReplyKind", "Submissions", "pause_in", "status_in", "with_pause"]

#: Makes the text of a value.
_Make = Callable[[Mapping[str, str]], str]
_Members = dict[str, str]
#: In the messages below.
_STATUS: Final = re.compile(r"the job server answered ([1-9][0-9]{2})\b")
_PAUSE: Final = re.compile(r"the job server answered [1-9][0-9]{2} and asks to wait ([0-9]{1,5}) s\b")
#: Where job servers put the reason, if their profile does not say where; one of these may be inside another.
_REASONS: Final = ("error", "message", "detail", "reason", "title")
_TOO_MANY_REQUESTS: Final = 429
_UNAVAILABLE: Final = 503
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Of a page, which gateways answer with.
_TITLE: Final = re.compile(r"<title[^<>]*+>([^<]*+)", re.IGNORECASE)


class Submissions:
    """Composes submissions."""

    def __init__(self, profile: Profile, server_url: str) -> None:
        """Compose them as `profile` describes, for the job server at `server_url`."""
        submit = profile.submit
        self._submit = submit
        self._server_url = server_url
        self._headers = merged(profile.server.headers, submit.headers)
        self._patch = _compiled(submit.body)
        self._names = {name: json.dumps(name) for name in self._patch}
        self._is_flat = not any(isinstance(value, dict) for value in self._patch.values())
        is_fixed = not has_placeholders([submit.url, submit.query])
        #: The address of submissions, if it is the same for every job.
        self.url = address(server_url, submit.url, {}, submit.query) if is_fixed else None

    def compose(self, body: bytes, values: Mapping[str, str], content_type: str = "", query: str = "") -> Request:
        """Return the submission of a client's job, as `ClientJobs` left it, with the placeholders' `values`.

        `content_type` is empty for a JSON object; `query` is what is passed on of the client's.

        Raises:
            UnfilledError: a placeholder has no value, or one that is invalid in its place.
        """
        submit = self._submit
        url = self.url or address(self._server_url, submit.url, values, submit.query)
        if query:
            url += ("&" if "?" in url else "?") + query
        headers = headers_of(self._headers, values) if self._headers else {}
        if content_type:
            headers = merged(headers, {"Content-Type": content_type})
        return Request(method=submit.method, url=url, headers=headers, body=self._body(body, content_type, values))

    def _body(self, body: bytes, content_type: str, values: Mapping[str, str]) -> bytes:
        if self._submit.form and content_type:
            from shared.job_server.forms import with_fields  # noqa: PLC0415 - few profiles have forms

            return with_fields(
                body, content_type, {name: fill(text, values) for name, text in self._submit.form.items()}
            )
        if not self._patch:
            return body
        if not self._is_flat:
            return _merged(members_of(body.decode()), self._patch, values).encode()
        # None of the client's members has one of these names, so they need not be parsed.
        ours = ",".join([f"{self._names[name]}:{make(values)}" for name, make in self._patch.items()])
        theirs = body.strip()[1:-1].strip()
        return b"{" + theirs + (b"," if theirs else b"") + ours.encode() + b"}"


def _compiled(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `patch` with a `_Make` in place of each value that is not an object."""
    return {name: _compiled(value) if isinstance(value, dict) else _maker(value) for name, value in patch.items()}


def _maker(value: Any) -> _Make:  # noqa: ANN401 - JSON is what it is
    if has_placeholders(value):
        return lambda values: json_text(value, values)
    text = json.dumps(value)
    return lambda _: text


def _merged(members: _Members, patch: Mapping[str, Any], values: Mapping[str, str]) -> str:
    merged = dict(members)
    for name, ours in patch.items():
        if isinstance(ours, dict):
            merged[name] = _merged(members_of(merged.get(name, "{}")), ours, values)
        else:
            merged[name] = ours(values)
    return object_of(merged)


# --- the reply -------------------------------------------------------------------------------------------------------


class ReplyKind(StrEnum):
    """What a reply says."""

    #: The job server has the job.
    RUNNING = "running"
    #: It has the job, which is already finished.
    FINAL = "final"
    #: It did not accept the job, and will not.
    REFUSED = "refused"
    #: It did not accept the job now; the same submission may be sent again.
    BUSY = "busy"
    #: It answered with an error; it is unknown whether the job runs.
    ERROR = "error"
    #: Its answer does not follow the protocol; it is unknown whether the job runs.
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply, interpreted."""

    kind: ReplyKind
    #: What is wrong with it, for people; empty if nothing is.
    detail: str = ""
    #: The job server's reason for a refusal, which `detail` contains; empty for a refusing status: `Replies.reason`.
    reason: str = ""
    #: What later calls about the job need, by the profile's names.
    outputs: Mapping[str, str] = field(default_factory=dict)
    #: FINAL: how the job ended, and what the reply holds.
    verdict: Verdict | None = None
    content_type: str = ""
    body: bytes = b""


_RUNNING: Final = Reply(kind=ReplyKind.RUNNING)


class Replies:
    """Reads replies."""

    def __init__(self, submit: Submit) -> None:
        """Read them as `submit` describes."""
        self._accepted = frozenset(submit.accepted)
        self._busy = None if submit.busy is None else frozenset(submit.busy)
        self._rejected = compile_expression(submit.rejected) if submit.rejected else None
        self._rejected_by_body = "body" in submit.rejected
        self._error = compile_expression(submit.error)
        self._running = frozenset(submit.running)
        self._state_in_body = "body" in submit.state
        self._reader = Reader(submit, submit.outputs)
        self._only_body = only_body(
            submit.rejected, submit.state, submit.result, submit.error, *submit.outputs.values()
        )
        self._is_read = bool(submit.rejected or submit.running or submit.state or submit.outputs)

    def read_status(self, status: int, *, retry_after: bool) -> Reply | None:
        """Return what the status says, or None if it accepts the job: then the body decides.

        `retry_after` is whether the reply has a valid Retry-After.
        """
        detail = f"the job server answered {status}"
        if status in self._accepted:
            return None
        if self._is_busy(status, retry_after=retry_after):
            return Reply(kind=ReplyKind.BUSY, detail=detail)
        if _is_success(status) and not self._accepted:
            return None
        if status in _REDIRECTS:
            return Reply(kind=ReplyKind.ERROR, detail=f"{detail}, a redirect, which is not followed")
        if _is_success(status):
            return Reply(kind=ReplyKind.BAD, detail=f"{detail}, which its profile does not have")
        refused = 400 <= status < 500  # noqa: PLR2004 - HTTP's own
        return Reply(kind=ReplyKind.REFUSED if refused else ReplyKind.ERROR, detail=detail)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return what a reply with an accepting status says."""
        if not self._is_read:
            return _RUNNING
        content_type = headers.get("content-type") or headers.get("Content-Type", "")
        document = document_of(body, content_type)
        unread = ""
        if document.value is None and not document.is_json:
            unread = f"is not JSON: {why_not_json(body, len(body))}"
            if self._running and self._state_in_body:
                return _bad(unread)
        seen: dict[str, Any] = {"status": status, "body": document.value}
        if not self._only_body:
            seen["headers"] = {name.lower(): value for name, value in headers.items()}
        if self._rejected is not None and is_true(self._rejected(seen)):
            if unread and self._rejected_by_body and _is_success(status):
                return _bad(unread)  # an unreadable body refuses nothing: half a reply, a gateway's page
            reason = self._reason(seen)
            return Reply(kind=ReplyKind.REFUSED, detail=_refusal(status, reason), reason=reason)
        return self._taken(seen, content_type, body, is_json=document.is_json)

    def _taken(self, seen: dict[str, Any], content_type: str, body: bytes, *, is_json: bool) -> Reply:
        """Return what a reply says that does not refuse the job."""
        verdict = self._reader.read(seen, body, is_json=is_json)
        if verdict.kind is not Kind.PROGRESS:
            return Reply(
                kind=ReplyKind.FINAL, outputs=verdict.outputs, verdict=verdict, content_type=content_type, body=body
            )
        if self._running and verdict.state not in self._running:
            is_unfit = self._state_in_body and not isinstance(seen["body"], dict)
            return _bad("is not a JSON object" if is_unfit else "does not say that the job is running")
        return Reply(kind=ReplyKind.RUNNING, outputs=verdict.outputs)

    def reason(self, body: bytes) -> str:
        """Return the reason of a refusing status, from the beginning of its body; empty if there is none."""
        text = _text_of(body)
        try:
            document: Any = strict_json.loads(text.encode())
        except StrictJSONError:
            title = _TITLE.search(text)
            document = text if not text.startswith("<") else title[1] if title else None
        return self._reason({"status": 0, "headers": {}, "body": document})

    def _reason(self, seen: Mapping[str, Any]) -> str:
        said = error_text(self._error(seen) or _reason_in(seen["body"]))
        return " ".join("".join(c if c.isprintable() else " " for c in said).split())

    def _is_busy(self, status: int, *, retry_after: bool) -> bool:
        if self._busy is not None:
            return status in self._busy
        return status == _TOO_MANY_REQUESTS or (status == _UNAVAILABLE and retry_after)


def _is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - HTTP's own


def _text_of(body: bytes) -> str:
    """Return a body's text for people, whatever its encoding; empty if it has none.

    It may end in the middle of a character.
    """
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", "replace").strip()
    text = body.decode("utf-8-sig", "replace").strip()
    if "\ufffd" not in text[:-1]:
        return text
    text = body.decode("cp1252", "replace").strip()  # the other common encoding; nearly all bytes are characters in it
    return text if all(c != "\ufffd" and (c.isprintable() or c.isspace()) for c in text) else ""


def _reason_in(document: object) -> object:
    """Return the part of an error document that gives the reason; if none does, all of it."""
    for _ in range(2):
        if not isinstance(document, dict):
            break
        document = next((document[name] for name in _REASONS if document.get(name)), document)
    return document


def with_pause(detail: str, pause_s: float) -> str:
    """Return the message about a status with a Retry-After."""
    return f"{detail} and asks to wait {math.ceil(pause_s)} s"


def pause_in(detail: str) -> int | None:
    """Return how many seconds the job server asks to wait, if a failure's message says so."""
    found = _PAUSE.match(detail)
    return None if found is None else int(found[1])


def status_in(detail: str) -> int | None:
    """Return the job server's status, if a failure's message names it."""
    found = _STATUS.search(detail)
    return None if found is None else int(found[1])


def _refusal(status: int, reason: str) -> str:
    said = f"the job server answered {status}"
    if _is_success(status):
        said = "the job server's reply says that the job was refused"
    return f"{said}: {reason}" if reason else said


def _bad(what: str) -> Reply:
    return Reply(kind=ReplyKind.BAD, detail=f"the job server's reply {what}")
