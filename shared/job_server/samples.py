"""A profile's samples: recorded messages, read with the profile's own rules. A profile is its own test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote

from shared.errors import ProxyError
from shared.job_server.callbacks import Callbacks, Received
from shared.job_server.client_jobs import JSON_TYPE, ClientJobs
from shared.job_server.polls import Results, Statuses
from shared.job_server.profile import Profile, Sample
from shared.job_server.submissions import Replies, ReplyKind, Submissions
from shared.job_server.verdict import Kind, Verdict

__all__ = ["SAMPLE_VALUES", "SampleError", "described_submission", "found_in", "named_in", "problems_with"]

#: The values of placeholders in samples.
SAMPLE_VALUES: Final[Mapping[str, str]] = {
    "callback_url": "https://proxy.example/callback/TOKEN",
    "callback_token": "TOKEN",
    "job_id": "0123456789abcdef0123456789abcdef",
    "job_uuid": "01234567-89ab-cdef-0123-456789abcdef",
}

#: Stands for a secret.
_MASK: Final = "•••"
#: What a reply gives a reason for.
_SAYS_WHY: Final = frozenset({ReplyKind.REFUSED, ReplyKind.BUSY, ReplyKind.ERROR})
#: What `expect` calls the answers to a result call.
_RESULTS: Final = {Kind.SUCCEEDED: "ready", Kind.PROGRESS: "not-yet", Kind.FAILED: "failed"}


class SampleError(ProxyError):
    """A sample for which its profile has no rules."""


def described_submission(
    profile: Profile, sample: Sample, server_url: str, secrets: Mapping[str, str] = {}
) -> dict[str, object]:
    """Return the submission of a sample's `job` as JSON, with secrets masked. Raises ProxyError."""
    content_type = _headers(sample).get("content-type", JSON_TYPE)
    job = ClientJobs(profile.submit).read(sample.body.encode(), content_type)
    values = {**dict.fromkeys(secrets, _MASK), **SAMPLE_VALUES}
    if sample.path:
        values["path"] = sample.path
    query = ClientJobs(profile.submit).query(sample.query)
    request = Submissions(profile, server_url).compose(job.body, values, job.content_type, query)
    text = request.body.decode("utf-8", "replace")
    headers = {"Content-Type": JSON_TYPE, **request.headers} if text else request.headers
    return {
        "method": request.method,
        "url": request.url.replace(quote(_MASK), _MASK),
        "headers": {name.lower(): value for name, value in headers.items()},
        "body": _json_or_text(text),
        "text": text,  # JSON's numbers exactly as they are sent
    }


def found_in(profile: Profile, sample: Sample) -> tuple[str, Verdict]:
    """Return what the profile's rules read in a message of the job server, in the notation of a sample's `expect`.

    With the verdict. Raises SampleError: the profile has no such rules.
    """
    body, headers = sample.body.encode(), _headers(sample)
    match sample.kind:
        case "reply":
            replies = Replies(profile.submit)
            reply = replies.read_status(sample.status, retry_after="retry-after" in headers)
            reply = reply or replies.read(sample.status, headers, body)
            if reply.verdict is not None:
                return str(reply.verdict.kind), reply.verdict
            error = reply.reason or (replies.reason(body) if reply.kind in _SAYS_WHY else reply.detail)
            return str(reply.kind), Verdict(kind=Kind.PROGRESS, outputs=reply.outputs, error=error)
        case "callback":
            verdict = Callbacks(profile.callback).read(_received(sample))
        case "challenge":
            challenge = Callbacks(profile.callback).challenge(_received(sample))
            if not challenge:
                raise SampleError("has nothing that [callback] challenge finds")
            return challenge, Verdict(kind=Kind.PROGRESS)
        case "status" if profile.status is not None:
            verdict = Statuses(profile.status).read(sample.status, headers, body)
        case "result" if profile.result is not None:
            verdict = Results(profile.result).read(sample.status, headers, body)
            return _RESULTS[verdict.kind], verdict
        case _:
            raise SampleError(f"the profile has no [{sample.kind}]")
    return str(verdict.kind), verdict


def named_in(profile: Profile, sample: Sample) -> str:
    """Return what identifies the job of a callback at a fixed URL; empty if nothing does. Raises ProxyError."""
    return Callbacks(profile.callback).correlation(_received(sample))


def problems_with(profile: Profile, sample: Sample, server_url: str, secrets: Mapping[str, str] = {}) -> Iterator[str]:
    """Yield the differences between a sample's expectation and what the profile reads."""
    try:
        if sample.kind == "job":
            sent = described_submission(profile, sample, server_url, secrets)
            wanted = _json_or_text(sample.expect or "{}")  # without an expectation, it only shows what is sent
            if isinstance(wanted, dict):
                sent = {name: sent[name] for name in wanted if name in sent}
            if sent != wanted:
                yield f"sends {json.dumps(sent, ensure_ascii=False)} instead of {sample.expect}"
            return
        found, verdict = found_in(profile, sample)
    except ProxyError as exc:
        yield str(exc)
        return
    if found != sample.expect:
        yield f"is {found} instead of {sample.expect}{_why(sample, verdict)}"
    result = sample.body if verdict.result is None else verdict.result.decode()
    for name, has, wanted in (
        ("result", result, sample.result),
        ("error", verdict.error, sample.error),
        ("outputs", dict(verdict.outputs), sample.outputs),
    ):
        if wanted is not None and has != wanted:
            yield f"has the {name} {has!r} instead of {wanted!r}"


def _why(sample: Sample, verdict: Verdict) -> str:
    """Return why a message was read as it was."""
    if verdict.error or sample.kind not in {"callback", "status"}:
        return f": {verdict.error}" if verdict.error else ""
    return f": its state is {verdict.state!r}" if verdict.state else ": it has no state"


def _headers(sample: Sample) -> dict[str, str]:
    """Return the headers with their names in lower case, as messages are read."""
    return {name.lower(): value for name, value in sample.headers.items()}


def _received(sample: Sample) -> Received:
    headers = [(name.encode(), value.encode()) for name, value in _headers(sample).items()]
    return Received(
        method=sample.method, route=sample.route, query=sample.query, headers=headers, body=sample.body.encode()
    )


def _json_or_text(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
