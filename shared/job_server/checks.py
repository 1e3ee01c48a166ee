"""The rules for a profile beyond the types of its values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from shared.job_server.placeholders import OURS, has_placeholders, is_json, names_in, texts_in, without_placeholders
from shared.job_server.profile import Callback, Cancel, Profile, Reading, Result, Status, Verify
from shared.job_server.traps import check_expression
from shared.job_server.values import check_values

__all__ = ["check"]

_CALLBACK: Final = frozenset({"method", "route", "query", "headers", "body"})
_ANSWER: Final = frozenset({"status", "headers", "body"})
_OUTPUT: Final = re.compile(r"[a-z][a-z0-9_]*")
_FIRST: Final = re.compile(r"\{([a-z_]+)[^}]*\}")
_PATH: Final = re.compile(r"/callback/[A-Za-z0-9_-]+")
#: A whole host comes before the first placeholder.
_PAGE: Final = re.compile(r"https?://[^/?#\\{}]+([/?#]|$)")
_BRACE: Final = re.compile(r"\{[^}]*\}?|\}")
_SECRET: Final = re.compile(r"\{\s*env\s*:[^}]*\}?", re.IGNORECASE)
_WORD_IN_BRACES: Final = re.compile(r"\{\s*[A-Za-z][^\"'{}]*\}?")
#: What cannot remain beside the placeholders of a value; JSON and other texts may have braces.
_MISSPELT: Final = {
    **dict.fromkeys(("url", "page", "value", "secret", "prefix", "signed"), _BRACE),
    "query": _WORD_IN_BRACES,
    **dict.fromkeys(("headers", "body", "form"), _SECRET),
}
#: Placeholders as others write them; what is around ours would be sent.
_ELSEWHERE: Final = re.compile(r"\$\{[a-z][A-Za-z0-9_:/-]*\}|\{\{[a-z][A-Za-z0-9_:/-]*\}\}")
#: Secrets as shells and Compose files have them; in these values they would be sent, or expected, as they are.
_SHELL: Final = re.compile(r"\$\{([A-Z][A-Z0-9_]+)\}|(?:^|\s)\$([A-Z][A-Z0-9_]+)$")
_WITH_SECRETS: Final = frozenset({"headers", "secret", "value"})
#: Only these may be followed by a name: the callback route takes it.
_WITH_ROUTE: Final = frozenset({"callback_url", "callback_token"})
_NEEDS: Final = {"header": ("header", "value"), "hmac": ("header", "secret"), "standard-webhooks": ("secret",)}


def check(profile: Profile) -> None:
    """Raise ValueError if something in `profile` is wrong; the message says what, and where."""
    for place, text, known in _expressions(profile):
        if text:
            try:
                check_expression(text, known)
            except ValueError as exc:
                raise ValueError(f"{place}: {exc}") from exc
    _check_readings(profile)
    _check_addresses(profile)
    _check_outputs(profile)
    _check_placeholders(profile)
    _check_braces(profile)
    _check_quotes(profile)
    _check_callback(profile)
    _check_requests(profile.callback)
    if profile.verify is not None:
        _check_verify(profile.verify)
    check_values(profile)


def _expressions(profile: Profile) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield each expression with its place and the names that it can use."""
    readings: list[tuple[str, Reading, frozenset[str]]] = [
        ("submit", profile.submit, _ANSWER),
        ("callback", profile.callback, _CALLBACK),
    ]
    if profile.status is not None:
        readings.append(("status", profile.status, _ANSWER))
    for section, reading, known in readings:
        for name in ("state", "result", "error"):
            yield f"{section}.{name}", getattr(reading, name), known
    for name, text in profile.submit.outputs.items():
        yield f"submit.outputs.{name}", text, _ANSWER
    for name, text in profile.callback.outputs.items():
        yield f"callback.outputs.{name}", text, _CALLBACK
    for name, text in (profile.status.outputs if profile.status else {}).items():
        yield f"status.outputs.{name}", text, _ANSWER
    yield "submit.rejected", profile.submit.rejected, _ANSWER
    yield "callback.correlate", profile.callback.correlate, _CALLBACK
    yield "callback.challenge", profile.callback.challenge, _CALLBACK
    if profile.result is not None:
        yield "result.result", profile.result.result, _ANSWER


def _check_outputs(profile: Profile) -> None:
    for section in ("submit", "callback", "status"):
        for name in getattr(getattr(profile, section), "outputs", ()):
            if name in OURS:
                raise ValueError(f"{section}.outputs: {{{name}}} is the proxy's own value; take another name")
            if not _OUTPUT.fullmatch(name):
                raise ValueError(
                    f"{section}.outputs: `{name}` cannot be an output's name; take a word of a-z, 0-9 and _"
                )


def _check_placeholders(profile: Profile) -> None:
    outputs = {*profile.submit.outputs, *profile.callback.outputs}
    of_the_job = OURS - {"callback_url"}
    _check_page(profile.server.page, {"job_id", *outputs})
    _check_names("server.headers", [profile.server.headers], of_the_job)  # in the submission as well as in later calls
    submit = profile.submit
    _check_names("submit", [submit.url, submit.headers, submit.query, submit.body, submit.form], OURS)
    calls: list[tuple[str, Status | Result | Cancel | None]] = [
        ("status", profile.status),
        ("result", profile.result),
        ("cancel", profile.cancel),
    ]
    of_the_status = profile.status.outputs if profile.status else ()
    for section, call in calls:
        if call is not None:
            named = {*of_the_job, *outputs, *(of_the_status if section == "result" else ())}
            _check_names(section, [call.url, call.headers, call.body], named, " and outputs")
    if profile.verify is not None:
        # A callback at a fixed URL is verified before it is known whose it is.
        known = () if profile.callback.path else ("callback_token", "job_id")
        _check_names("verify", [profile.verify.value, profile.verify.secret], known)


def _check_names(section: str, templates: Iterable[Any], known: Iterable[str], more: str = "") -> None:
    for name in names_in(list(templates)):
        word, slash, _ = name.partition("/")
        if not name.startswith("env:") and (word not in known or (slash and word not in _WITH_ROUTE)):
            names = "".join(f"{{{one}}}, " for one in sorted(known))
            raise ValueError(f"{section}: there is no placeholder {{{name}}}; known are {names}{{env:NAME}}{more}")


def _check_braces(profile: Profile) -> None:
    """Refuse a misspelt placeholder: it would be sent as it is, and be a secret that everybody knows."""
    for section in ("server", "submit", "status", "result", "cancel", "verify"):
        for key, pattern in _MISSPELT.items():
            for text in texts_in(getattr(getattr(profile, section), key, "")):
                if other := _ELSEWHERE.search(text):
                    raise ValueError(f"{section}.{key}: got {other[0]}, takes {{{other[0].strip('${}')}}}")
                if key in _WITH_SECRETS and (shell := _SHELL.search(text)):
                    raise ValueError(f"{section}.{key}: got {shell[0].strip()}, takes {{env:{shell[1] or shell[2]}}}")
                if left := pattern.search(without_placeholders(text)):
                    raise ValueError(f"{section}.{key}: {left[0]} is no placeholder; names are letters, digits and _")


def _check_quotes(profile: Profile) -> None:
    """Refuse `{path}` as a bare value in JSON that is written as a text: a client could add members."""
    for section in ("server", "submit", "status", "result", "cancel"):
        for key in ("headers", "query", "form", "body"):
            for text in texts_in(getattr(getattr(profile, section), key, "")):
                if "{path}" in text and not is_json(text) and is_json(text.replace("{path}", "0")):
                    raise ValueError(f"{section}.{key}: in JSON, {{path}} belongs in quotes")


def _check_page(page: str, known: Iterable[str]) -> None:
    """Values from the job server may only be a part of the path: a link that it chooses could lead anywhere."""
    if page and not page.startswith(("http://", "https://")):
        raise ValueError(f"server.page: got {page!r}, takes an address that begins with http:// or https://")
    if page and not _PAGE.match(page):
        raise ValueError(f"server.page: got {page!r}, takes placeholders only after the host and a slash")
    _check_names("server.page", [page], known)
    if any(name.startswith("env:") for name in names_in(page)):
        raise ValueError("server.page: people see it, so it takes no {env:NAME}")


def _check_addresses(profile: Profile) -> None:
    calls = {"submit": profile.submit, "status": profile.status, "result": profile.result, "cancel": profile.cancel}
    for section, call in calls.items():
        if call is not None and call.url[:1] not in {"", "/", "{"}:
            raise ValueError(f"{section}.url: got {call.url!r}, takes what is appended to JOB_SERVER_URL: /path")
        if call is not None and (first := _FIRST.match(call.url)) and first[1] in OURS:
            raise ValueError(f"{section}.url: got {call.url!r}, takes /path: its beginning may not choose the host")


def _check_readings(profile: Profile) -> None:
    for section, reading in (("submit", profile.submit), ("callback", profile.callback), ("status", profile.status)):
        if reading is None:
            continue
        lists = [*reading.succeeded, *reading.failed]
        if lists and not reading.state:
            raise ValueError(f"{section}: missing key state, which says what succeeded and failed are compared with")
        if section != "submit" and reading.state and not reading.succeeded:
            raise ValueError(f"{section}: missing key succeeded")
        for state in lists:
            if lists.count(state) > 1:
                raise ValueError(f"{section}: {state!r} stands twice in succeeded and failed")
    if profile.submit.running and not profile.submit.state:
        raise ValueError("submit: missing key state, which says what running is compared with")


def _check_callback(profile: Profile) -> None:
    callback, submit = profile.callback, profile.submit
    if not callback.state and not callback.notification_only:
        raise ValueError("callback: missing key state; it may be left out only with notification_only = true")
    if callback.notification_only and profile.status is None and profile.result is None:
        raise ValueError("callback.notification_only: there is no [status] and no [result] to ask")
    if bool(callback.path) is not bool(callback.correlate):
        raise ValueError("callback: path and correlate go together")
    if callback.path and not _PATH.fullmatch(callback.path):
        raise ValueError(f"callback.path: got {callback.path!r}, takes /callback/ and a word")
    with_names = {"callback_token", "job_id", "job_uuid", *submit.outputs}
    if callback.correlate_with not in with_names:
        raise ValueError(f"callback.correlate_with: got {callback.correlate_with!r}, takes one of {sorted(with_names)}")
    named = {name.partition("/")[0] for name in names_in(asdict(submit))}
    if not callback.path and "callback_url" not in named:
        raise ValueError("submit: nothing tells the job server {callback_url}")
    routes = {"", *(name.partition("/")[2] for name in names_in(asdict(submit)))}
    for number, sample in enumerate(profile.sample):
        if sample.route not in routes:
            raise ValueError(
                f"sample[{number}].route: got {sample.route!r}, but no {{callback_url/{sample.route}}} is sent"
            )
    if profile.status is not None and not profile.status.state:
        raise ValueError("status: missing key state, and [callback] has none either")


def _check_requests(callback: Callback) -> None:
    """Check which requests count as callbacks, or are answered in a way of their own."""
    if callback.challenge and not callback.path:
        raise ValueError("callback.challenge: takes a path as well: only a fixed URL is tested")
    if callback.get and callback.json_only:
        raise ValueError("callback: get and json_only exclude each other: a GET has no body")


def _check_verify(verify: Verify) -> None:
    for name in _NEEDS[verify.scheme]:
        if not getattr(verify, name):
            raise ValueError(f"verify: missing key {name}, which the scheme {verify.scheme} needs")
    for key in ("value", "secret"):
        text = getattr(verify, key)
        if text in OURS or text.startswith("env:"):  # everybody knows it
            raise ValueError(f"verify.{key}: got {text!r}, takes {{{text}}}")
    signed = list(names_in(verify.signed))
    if signed.count("body") != 1 or not {"body", "timestamp", "url"}.issuperset(signed):
        takes = "{body} once, and {timestamp} and {url} if they are signed as well"
        raise ValueError(f"verify.signed: got {verify.signed!r}, takes {takes}")
    if ("timestamp" in signed) is not bool(verify.timestamp):
        raise ValueError("verify: {timestamp} in signed and the key timestamp, which says where it is, go together")
    if has_placeholders(verify.prefix):
        raise ValueError(f"verify.prefix: got {verify.prefix!r}, takes no placeholders")
