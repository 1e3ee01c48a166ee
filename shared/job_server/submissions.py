"""The submission: what a client's object may hold, and what is made of it for the job server.

Both halves keep the exact text of every value that is not the profile's to set, as reading and writing JSON again
changes numbers. The front end checks the client's object (`ClientObjects`); a worker, which knows the callback URL,
merges the profile's members into it (`Submissions`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared import strict_json
from shared.errors import Code, RequestError, StrictJSONError
from shared.job_server.placeholders import has_placeholders, json_text
from shared.job_server.profile import Submit

__all__ = ["ClientObject", "ClientObjects", "Submissions"]

#: What is merged into a client's object: a member's name, and how its text is made.
_Make = Callable[[Mapping[str, str]], str]
_Members = dict[str, str]
_DUMPS: Final = json.dumps


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientObject:
    """A client's JSON object, checked."""

    #: Its members in their exact text, less those that the profile overwrites.
    body: bytes
    #: Whether the client asks not to be kept waiting.
    respond_async: bool


class ClientObjects:
    """Checks what clients send."""

    def __init__(self, submit: Submit) -> None:
        """Check for what `submit` sets itself."""
        self._patch = submit.body
        self._overwrites = frozenset(submit.overwrites)
        self._respond_async = [(name.split("."), _DUMPS(value)) for name, value in submit.respond_async.items()]

    def read(self, body: bytes) -> ClientObject:
        """Return the client's object.

        Raises:
            RequestError: it is no JSON object, or has a member that is the profile's to set.
        """
        try:
            members = strict_json.object_members(body)
            respond_async = bool(self._respond_async) and all(
                _text_at(members, path) == text for path, text in self._respond_async
            )
            text = self._without_overwritten(members, self._patch, "")
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the body is not a job: {exc}") from exc
        return ClientObject(body=text.encode(), respond_async=respond_async)

    def _without_overwritten(self, members: _Members, patch: Mapping[str, Any], prefix: str) -> str:
        kept = dict(members)
        for name, ours in patch.items():
            if name not in kept:
                continue
            path = prefix + name
            if path in self._overwrites:
                del kept[name]
            elif isinstance(ours, dict) and kept[name][:1] == "{":
                kept[name] = self._without_overwritten(_members(kept[name]), ours, f"{path}.")
            else:
                raise RequestError(Code.INVALID_REQUEST, f"`{path}` is set by the proxy, not by the client")
        return _object(kept)


class Submissions:
    """Composes submissions."""

    def __init__(self, submit: Submit) -> None:
        """Compose them as `submit` says."""
        self._patch = _compiled(submit.body)
        self._is_flat = not any(isinstance(value, dict) for value in self._patch.values())

    def compose(self, body: bytes, values: Mapping[str, str]) -> bytes:
        """Return the client's object, as `ClientObjects` left it, with the profile's members, filled with `values`.

        Raises:
            KeyError: a placeholder has no value.
        """
        if not self._is_flat:
            return _merged(_members(body.decode()), self._patch, values).encode()
        # No member of the client's bears one of these names, so that theirs need not be read.
        ours = ",".join(f"{_DUMPS(name)}:{make(values)}" for name, make in self._patch.items())
        theirs = body.strip()[1:-1].strip()
        return b"{" + theirs + (b"," if theirs and ours else b"") + ours.encode() + b"}"


def _compiled(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `patch` with a `_Make` in the place of each value that is no object."""
    return {name: _compiled(value) if isinstance(value, dict) else _maker(value) for name, value in patch.items()}


def _maker(value: Any) -> _Make:  # noqa: ANN401 - JSON is what it is
    if has_placeholders(value):
        return lambda values: json_text(value, values)
    text = _DUMPS(value)
    return lambda _: text


def _merged(members: _Members, patch: Mapping[str, Any], values: Mapping[str, str]) -> str:
    merged = dict(members)
    for name, ours in patch.items():
        if isinstance(ours, dict):
            merged[name] = _merged(_members(merged.get(name, "{}")), ours, values)
        else:
            merged[name] = ours(values)
    return _object(merged)


def _members(text: str) -> _Members:
    return strict_json.object_members(text.encode())


def _object(members: _Members) -> str:
    return "{" + ",".join(f"{_DUMPS(name)}:{value}" for name, value in members.items()) + "}"


def _text_at(members: _Members, path: list[str]) -> str | None:
    """Return the exact text of the member at `path`, if there is one."""
    *parents, last = path
    for name in parents:
        text = members.get(name, "")
        if text[:1] != "{":
            return None
        members = _members(text)
    return members.get(last)
