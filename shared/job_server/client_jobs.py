"""What a client may send as a job: the media type, and no members that the profile sets.

For the front end; the submission itself is made by a worker (submissions.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, quote, urlencode

from msgspec import Struct, field

from shared.errors import Code, RequestError, StrictJSONError
from shared.job_server.documents import FORMS, media_type_of
from shared.job_server.forms import FormError, field_names, without_fields
from shared.job_server.labels import Labels
from shared.job_server.partial_json import object_members
from shared.job_server.profile import Submit
from shared.strict_json import members_of, object_of

__all__ = ["JSON_TYPE", "ClientJob", "ClientJobs"]

JSON_TYPE: Final = "application/json"
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
#: How much longer the text of a value may be than its shortest notation, to be compared: spaces, escapes.
_LONGER: Final = 100
_TIMES: Final = 10
_MAX_PARAMETERS: Final = 1_000
_Members = dict[str, str]


class ClientJob(Struct, frozen=True, kw_only=True):
    """A client's job, checked."""

    #: A JSON object or a form: its members or fields in their exact text, without those that the profile overwrites.
    #: Otherwise unchanged.
    body: bytes
    #: Empty: a JSON object.
    content_type: str = ""
    #: Whether the client asks for an answer without waiting.
    respond_async: bool
    #: Its labels.
    labels: Mapping[str, str] = field(default_factory=dict)


class ClientJobs:
    """Checks what clients send."""

    def __init__(self, submit: Submit, labels: Sequence[str] = ()) -> None:
        """`submit` says what the profile sets itself; `labels` are the members by which people recognise a job."""
        self._labels = Labels(labels)
        self._patch = submit.body
        self._fields = frozenset(submit.form)
        self._overwrites = frozenset(submit.overwrites)
        self._respond_async = [
            (tuple(name.split(".")), _canonical(json.dumps(value))) for name, value in submit.respond_async.items()
        ]
        self._query = frozenset(submit.client_query)
        self._takes_all = not submit.body and not submit.form
        self._takes_json = bool(submit.body)
        self._takes_forms = bool(submit.form)

    def check_media_type(self, content_type: str) -> None:
        """Raise RequestError unless a body of this type can be passed on, with the profile's own values in it."""
        media_type = media_type_of(content_type)
        if self._takes_all or (self._takes_forms and media_type in FORMS):
            if not (content_type.isascii() and content_type.isprintable()):  # it is passed on
                raise RequestError(
                    Code.UNSUPPORTED_MEDIA_TYPE, "the job's `Content-Type` has other characters than ASCII"
                )
            return
        if not self._takes_json:
            wanted = "a form: `multipart/form-data` or `application/x-www-form-urlencoded`"
            raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, f"send the job as {wanted}")
        if media_type != JSON_TYPE or not _is_utf8(content_type):
            raise RequestError(
                Code.UNSUPPORTED_MEDIA_TYPE, "send the job as `Content-Type: application/json`, in UTF-8"
            )

    def query(self, text: str) -> str:
        """Return what the job server gets of a client's query. Raises RequestError: it has something else.

        A query is ignored if the profile takes nothing of it.
        """
        if not self._query or not text:
            return ""
        try:
            parameters = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
        except ValueError:
            raise RequestError(Code.INVALID_REQUEST, f"the query has more than {_MAX_PARAMETERS} parameters") from None
        for name, _ in parameters:
            if name not in self._query:
                takes = ", ".join(sorted(self._query))
                raise RequestError(Code.INVALID_REQUEST, f"the query has `{name}`; the job server takes {takes}")
        return urlencode(parameters, quote_via=quote)

    def read(self, body: bytes, content_type: str = JSON_TYPE) -> ClientJob:
        """Return the client's job.

        Raises:
            RequestError: its type is unknown to the profile, or it is not what its type says, or it has a member or a
                field that only the profile may set.
        """
        self.check_media_type(content_type)
        media_type = media_type_of(content_type)
        if self._takes_forms and media_type in FORMS:
            body = self._without_overwritten_fields(body, content_type)
        elif self._takes_json:
            return self._read_object(body)
        return ClientJob(body=body, content_type=content_type, respond_async=False)

    def _without_overwritten_fields(self, body: bytes, content_type: str) -> bytes:
        try:
            taken = field_names(body, content_type) & self._fields
        except FormError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the body is not a job: {exc}") from exc
        for name in sorted(taken - self._overwrites):
            _refuse_ours(name)
        return without_fields(body, content_type, taken) if taken else body

    def _read_object(self, body: bytes) -> ClientJob:
        try:
            members = object_members(body)
            respond_async = bool(self._respond_async) and all(
                _has_value(_text_at(members, path), wanted) for path, wanted in self._respond_async
            )
            text = self._without_overwritten(members, self._patch, "")
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the body is not a job: {exc}") from exc
        return ClientJob(body=text.encode(), respond_async=respond_async, labels=self._labels.of(members))

    def _without_overwritten(self, members: _Members, patch: Mapping[str, Any], prefix: str) -> str:
        kept = dict(members)
        for name, ours in patch.items():
            if name not in kept:
                continue
            path = prefix + name
            if path in self._overwrites:
                del kept[name]
            elif isinstance(ours, dict) and kept[name][:1] == "{":
                kept[name] = self._without_overwritten(_members_of(kept[name]), ours, f"{path}.")
            else:
                _refuse_ours(path)
        return object_of(kept)


def _refuse_ours(name: str) -> NoReturn:
    raise RequestError(Code.INVALID_REQUEST, f"`{name}` is set by the proxy, not by the client")


def _is_utf8(content_type: str) -> bool:
    """Return whether the declared charset is UTF-8 or a subset of it; JSON has no other meaningful parameter."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in _UTF8:
            return False
    return True


def _canonical(text: str) -> str:
    """Return the same text for all notations of a JSON value; an empty one if it is nested too deep."""
    try:
        return json.dumps(json.loads(text, parse_int=float), sort_keys=True)
    except RecursionError:
        return ""


def _has_value(text: str | None, wanted: str) -> bool:
    """Return whether a client's value, which may be very long, equals a canonical one."""
    return text is not None and len(text) <= _LONGER + _TIMES * len(wanted) and _canonical(text) == wanted


def _text_at(members: _Members, path: tuple[str, ...]) -> str | None:
    *objects, last = path
    try:
        for name in objects:
            members = _members_of(members.get(name, ""))
    except StrictJSONError:
        return None  # not an object, or one with a duplicate name
    return members.get(last)


def _members_of(text: str) -> _Members:
    """Return the members of an object in a job, which may be large. Raises StrictJSONError."""
    try:
        return object_members(text.encode())
    except StrictJSONError:
        return members_of(text)  # it has very many, or this says the same
