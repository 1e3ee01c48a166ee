"""What `--check` and `--profiles` say about profiles."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from shared.errors import ProxyError, SettingsError
from shared.job_server import loader
from shared.job_server.calls import Call
from shared.job_server.placeholders import OURS
from shared.job_server.samples import described_submission, found_in, named_in, problems_with
from shared.shown_urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.job_server.profile import Profile

__all__ = [
    "doubt",
    "early_loss",
    "list_of_profiles",
    "missing_name",
    "sample_findings",
    "submissions",
    "tried",
    "unfit_secrets",
    "unfound",
]

#: Where the expressions of a section are looked for: the kind of a sample, and what it expects.
_LOOKED_FOR: Final = (
    ("submit", "result", "reply", "succeeded"),
    ("callback", "result", "callback", "succeeded"),
    ("callback", "error", "callback", "failed"),
    ("status", "result", "status", "succeeded"),
    ("status", "error", "status", "failed"),
    ("result", "result", "result", "ready"),
)
_NOTHING: Final = (b"null", "")


def list_of_profiles() -> str:
    """Return text with a line about each shipped profile."""
    lines = ["profiles that PROFILE can name:"]
    for name in loader.shipped():
        profile = loader.load(name)
        lines.append(f"  {name:<20} {profile.description} ({tried(profile)})")
    return "\n".join(lines)


def tried(profile: Profile) -> str:
    """Return words about what a profile was tried with."""
    return f"tried with {profile.tried_with}" if profile.tried_with else "tried with its samples only"


def unfit_secrets(profile: Profile) -> str:
    """Return what is wrong with the profile's secrets, a line for each; empty if all fit."""
    try:
        loader.secrets_of(profile)
    except SettingsError as exc:
        return str(exc)
    return ""


def doubt(profile: Profile) -> str:
    """Return how others than the job server could end a profile's jobs; empty if they could not."""
    callback = profile.callback
    if profile.verify or callback.notification_only or callback.correlate_with == "callback_token":
        return ""
    known = f"anybody who knows a job's {callback.correlate_with} can report its end to {callback.path}"
    return f"{profile.name}: {known}, as there is no [verify]"


def early_loss(profile: Profile) -> str:
    """Return why a callback that comes before the reply is lost; empty if none is."""
    callback = profile.callback
    if not callback.path or callback.correlate_with in OURS or profile.status or profile.result:
        return ""
    why = f"{callback.correlate_with} is known only from the reply, and there is no [status] to ask instead"
    return f"{profile.name}: a callback that comes before the reply is lost, as its {why}"


def missing_name(profile: Profile) -> str:
    """Return what a notification should name as well, as the reply that did may be lost; empty if nothing."""
    callback = profile.callback
    if not callback.notification_only or callback.path:
        return ""
    calls = [Call("", profile.server, one) for one in (profile.status, profile.result) if one is not None]
    names = {name for call in calls for name in call.needs} - callback.outputs.keys()
    names -= profile.status.outputs.keys() if profile.status else set()
    known = "is known only from the reply; if that is lost, no notification helps: see [callback] outputs"
    return f"{profile.name}: {', '.join(sorted(names))} {known}" if names else ""


def unfound(profile: Profile) -> Iterator[str]:
    """Yield what is found in no sample that should have it, unless one says so: its expression may be misspelt."""
    for section, key, kind, expect in _LOOKED_FOR:
        expression = getattr(getattr(profile, section), key, "")
        samples = [one for one in profile.sample if (one.kind, one.expect) == (kind, expect)]
        if expression and not (key == "result" and section == "status" and profile.result) and samples:
            is_found = (getattr(found_in(profile, one)[1], key) not in _NOTHING for one in samples)
            is_meant = (getattr(one, key) is not None for one in samples)
            if not any(is_meant) and not any(is_found):
                yield f"{section}.{key}: {expression} is in no sample of a {kind} that is {expect}"
    replies = [one for one in profile.sample if (one.kind, one.expect) == ("reply", "running")]
    callbacks = [one for one in profile.sample if one.kind == "callback"]
    statuses = [one for one in profile.sample if (one.kind, one.expect) == ("status", "succeeded")]
    if profile.callback.correlate and callbacks and not any(named_in(profile, one) for one in callbacks):
        yield f"callback.correlate: {profile.callback.correlate} is in no sample of a callback: none finds its job"
    found = {name for one in (*replies, *callbacks, *statuses) for name in found_in(profile, one)[1].outputs}
    sought = [*(profile.submit.outputs if replies else ()), *(profile.callback.outputs if callbacks else ())]
    sought += profile.status.outputs if profile.status and statuses else ()
    for name in dict.fromkeys(sought):
        if name not in found:
            yield f"the output {name} is in no sample: calls that need it cannot be made"


def submissions(profile: Profile, job_server_url: str) -> Iterator[str]:
    """Yield what would be sent for each job among the samples, in one line each, secrets masked."""
    secrets = dict.fromkeys(loader.secret_names(profile), "")
    for sample in profile.sample:
        if sample.kind == "job":
            try:
                sent = described_submission(profile, sample, shown(job_server_url), secrets)
            except ProxyError as exc:
                yield f"none can be made: {exc}"
                continue
            headers = json.dumps(sent["headers"], ensure_ascii=False)
            yield f"{sent['method']} {sent['url']} {headers} {sent['text']!r}"


def sample_findings(profile: Profile, job_server_url: str) -> tuple[str, list[str]]:
    """Return one line about how the samples are read, and a line for each that is not read as it expects."""
    secrets = dict.fromkeys(loader.secret_names(profile), "")
    wrong = []
    read: Counter[str] = Counter()
    for number, sample in enumerate(profile.sample):
        url = profile.server.url or job_server_url  # what a sample expects is about the profile's own address
        found = list(problems_with(profile, sample, url, secrets))
        wrong += [f"sample[{number}], a {sample.kind}, {words}" for words in found]
        is_word = sample.kind not in {"job", "challenge"}
        read[f"{sample.kind} {sample.expect}" if is_word else sample.kind] += not found
    return ", ".join(f"{count} {what}" for what, count in read.items() if count), wrong
