"""The submission for a client's job: the profile's address, headers, members and fields, filled in.

For the workers. The client's own values keep their exact text, because parsing and writing JSON again changes numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shared.job_server.addresses import address
from shared.job_server.calls import Request, headers_of
from shared.job_server.placeholders import fill, has_placeholders, json_text
from shared.job_server.profile import Profile
from shared.strict_json import members_of, object_of

__all__ = ["Submissions"]

#: Makes the text of a value.
_Make = Callable[[Mapping[str, str]], str]
_Members = dict[str, str]


class Submissions:
    """Composes submissions."""

    def __init__(self, profile: Profile, server_url: str) -> None:
        """Compose them as `profile` describes, for the job server at `server_url`."""
        submit = profile.submit
        self._submit = submit
        self._server_url = server_url
        self._headers = profile.server.headers | submit.headers
        self._patch = _compiled(submit.body)
        self._names = {name: json.dumps(name) for name in self._patch}
        self._is_flat = not any(isinstance(value, dict) for value in self._patch.values())
        is_fixed = not has_placeholders([submit.url, submit.query])
        #: Where they go, if that is the same for every job.
        self.url = address(server_url, submit.url, {}, submit.query) if is_fixed else None

    def compose(self, body: bytes, values: Mapping[str, str], content_type: str = "") -> Request:
        """Return the submission of a client's job, as `ClientJobs` left it, with the placeholders' `values`.

        `content_type` is empty for a JSON object.

        Raises:
            UnfilledError: a placeholder has no value, or one that cannot stand where it is.
        """
        submit = self._submit
        url = self.url or address(self._server_url, submit.url, values, submit.query)
        headers = headers_of(self._headers, values) if self._headers else {}
        if content_type:
            headers["Content-Type"] = content_type
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
    """Return `patch` with a `_Make` in the place of each value that is no object."""
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
