"""Limits on the values in a profile, beyond their types: errors are reported at start, not at each job."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from shared import setting_kinds as kinds
from shared.job_server.documents import FORMS, media_type_of
from shared.job_server.profile import Callback, Cancel, Profile, Result, Sample, Status, Submit, Verify

__all__ = ["check_values"]

#: A segment of an address, and a label of metrics.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CALLBACK_METHODS: Final = ("POST", "PUT")
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: RFC 9110, section 5.6.2.
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers that say where a message ends and whom it is for; the sender of the message sets them.
_FRAMING: Final = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})
_NOT_IN_A_URL: Final = re.compile(r"[^!-~]|[\"#<>\\^`|]")
_NOT_IN_A_FIELD_NAME: Final = re.compile(r"[\"\r\n]")
_STATUSES: Final = range(200, 600)
_MOST_S: Final = 1_000_000
#: A shorter interval would flood the job server.
_LEAST_EVERY_S: Final = 0.1
_SCHEME_TAKES: Final = {
    "header": {"header", "value"},
    "hmac": {"header", "secret", "hash", "encoding", "prefix", "signed", "timestamp"},
    "standard-webhooks": {"secret"},
}
_MESSAGES: Final = ("succeeded", "failed", "progress", "notification")
_EXPECT: Final = {
    "reply": ("running", "succeeded", "failed", "refused", "busy", "error", "bad"),
    "callback": _MESSAGES,
    "status": _MESSAGES,
    "result": ("ready", "not-yet", "failed"),
}


def check_values(profile: Profile) -> None:
    """Raise ValueError if a value in `profile` is unusable; the message says which one, and what is allowed."""
    _check_names_and_urls(profile)
    _check_headers("server.headers", profile.server.headers)
    for section in ("submit", "status", "result", "cancel"):
        if (call := getattr(profile, section)) is not None:
            _check_call(section, call)
    _check_statuses(profile.submit)
    _check_what_is_set(profile.submit)
    _check_json("submit.respond_async", profile.submit.respond_async)
    if profile.status is not None:
        _check_times(profile.status)
    if profile.verify is not None:
        _check_verify(profile.verify)
    for number, sample in enumerate(profile.sample):
        _check_sample(f"sample[{number}]", sample, profile.callback)


def _check_names_and_urls(profile: Profile) -> None:
    if not _NAME.fullmatch(profile.name):
        _refuse("name", profile.name, "letters, digits, `.`, `_` and `-`: it is a part of addresses")
    if not profile.description.isprintable():
        _refuse("description", profile.description, "one line")
    if profile.documentation and not profile.documentation.startswith(("https://", "http://")):
        _refuse("documentation", profile.documentation, "a URL")
    try:
        kinds.URL.parse(profile.server.url)
    except ValueError:
        _refuse("server.url", profile.server.url, kinds.URL.takes)


def _refuse(place: str, value: object, takes: str) -> None:
    raise ValueError(f"{place}: got {value!r}, takes {takes}")


def _check_call(section: str, call: Submit | Status | Result | Cancel) -> None:
    _check_headers(f"{section}.headers", call.headers)
    if call.method not in _METHODS:
        _refuse(f"{section}.method", call.method, f"one of {', '.join(_METHODS)}")
    if _NOT_IN_A_URL.search(call.url):
        _refuse(f"{section}.url", call.url, "a URL's characters; others are percent-encoded, and it has no fragment")
    _check_json(f"{section}.body", call.body)
    if call.body and not (isinstance(call, Submit) and call.form):
        _check_type(f"{section}.headers", call.headers)
    if call.body and call.method == "GET" and isinstance(call, Status | Result):  # which is their default
        _refuse(f"{section}.method", call.method, "a method that sends a body, such as POST")


def _check_headers(place: str, headers: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for name, value in headers.items():
        _check_header_name(place, name)
        if name.lower() in _FRAMING:
            raise ValueError(f"{place}: `{name}` is set by whoever sends the request")
        if name.lower() in seen:
            raise ValueError(f"{place}: `{name}` stands there twice")
        seen.add(name.lower())
        if not value.isprintable():
            _refuse(f"{place}.{name}", value, "one line of text")


def _check_type(place: str, headers: Mapping[str, str]) -> None:
    """Refuse the type of a form for what is sent as JSON."""
    for name, value in headers.items():
        if name.lower() == "content-type" and media_type_of(value) in FORMS:
            raise ValueError(f"{place}: got {name} {value!r}, but `body` is sent as JSON")


def _check_header_name(place: str, name: str) -> None:
    if not _TOKEN.fullmatch(name):
        _refuse(place, name, "a header's name: letters, digits and `-`")


def _check_statuses(submit: Submit) -> None:
    for key in ("accepted", "busy"):
        for status in getattr(submit, key) or ():
            if status not in _STATUSES:
                _refuse(f"submit.{key}", status, "statuses from 200 to 599")
    for status in submit.busy or ():
        if status in submit.accepted:
            raise ValueError(f"submit: {status} stands in accepted and in busy")


def _check_what_is_set(submit: Submit) -> None:
    ours = {*submit.query, *(name for name, _ in parse_qsl(urlsplit(submit.url).query, keep_blank_values=True))}
    for name in submit.client_query:
        if not name or name in ours:
            _refuse("submit.client_query", name, "parameters that neither query nor url sets")
    for name in submit.form:
        if not name or _NOT_IN_A_FIELD_NAME.search(name):
            _refuse("submit.form", name, "the name of a field")
    set_here = {*_paths(submit.body), *submit.form}
    for path in submit.overwrites:
        if path not in set_here:
            _refuse("submit.overwrites", path, f"what body or form sets: {', '.join(sorted(set_here))}")
    for path in submit.respond_async:
        is_set = path in set_here and not any(one.startswith(f"{path}.") for one in set_here)
        if is_set and not any(f"{path}.".startswith(f"{one}.") for one in submit.overwrites):
            raise ValueError(f"submit.respond_async: clients cannot send {path}, as body sets it; put it in overwrites")


def _paths(body: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in body.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")


def _check_json(place: str, value: Any) -> None:  # noqa: ANN401 - whatever TOML has
    """TOML has dates and special numbers; JSON has not."""
    below: Iterable[tuple[str, Any]] = ()
    match value:
        case dict():
            below = ((f"{place}.{name}", one) for name, one in value.items())
        case list() | tuple():
            below = ((f"{place}[{number}]", one) for number, one in enumerate(value))
        case bool() | int() | str():
            pass
        case float() if math.isfinite(value):
            pass
        case _:
            _refuse(place, str(value), "what JSON has: a text, a number, a boolean, a list or an object")
    for where, one in below:
        _check_json(where, one)


def _check_times(status: Status) -> None:
    for key, least in (("after", 0), ("every", _LEAST_EVERY_S)):
        if not least <= getattr(status, key) <= _MOST_S:  # NaN fails this as well
            _refuse(f"status.{key}", getattr(status, key), f"seconds from {least} to {_MOST_S}")


def _check_verify(verify: Verify) -> None:
    if verify.header:
        _check_header_name("verify.header", verify.header)
    if verify.timestamp:  # a header, or the beginning of an element
        _check_header_name("verify.timestamp", verify.timestamp.removesuffix("="))
    for key in fields(verify):
        is_given = key.name != "scheme" and getattr(verify, key.name) != key.default
        if is_given and key.name not in _SCHEME_TAKES[verify.scheme]:
            raise ValueError(f"verify: the scheme {verify.scheme} has no {key.name}")


def _check_sample(place: str, sample: Sample, callback: Callback) -> None:
    expected = _EXPECT.get(sample.kind)
    if expected is not None and sample.expect not in expected:
        _refuse(f"{place}.expect", sample.expect, f"of a {sample.kind} one of {', '.join(expected)}")
    methods = (*_CALLBACK_METHODS, "GET") if callback.get or sample.kind == "challenge" else _CALLBACK_METHODS
    if sample.kind in {"callback", "challenge"} and sample.method not in methods:
        _refuse(f"{place}.method", sample.method, f"of a {sample.kind} one of {', '.join(methods)}")
