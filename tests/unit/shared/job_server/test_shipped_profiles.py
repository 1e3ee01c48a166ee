"""Every shipped profile with its own samples: what is sent, and how each message is read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter

import pytest

from shared.job_server import loader
from shared.job_server.calls import Call
from shared.job_server.profile import Callback, Profile, Result, Sample, Status, Submit
from shared.job_server.samples import problems_with
from shared.job_server.submissions import Replies, ReplyKind
from tests.support.profiles import shipped_profiles

PROFILES = shipped_profiles()
SAMPLES = [
    pytest.param(profile, sample, id=f"{profile.name}-{number}-{sample.kind}-{sample.expect[:12]}")
    for profile in PROFILES
    for number, sample in enumerate(profile.sample, 1)
]


def secrets(profile: Profile) -> dict[str, str]:
    """Return a value for each secret."""
    return dict.fromkeys(loader.secret_names(profile), "hush")


@pytest.mark.parametrize(("profile", "sample"), SAMPLES)
def test_a_sample_is_what_it_says(profile: Profile, sample: Sample) -> None:
    """A profile is its own test."""
    assert list(problems_with(profile, sample, profile.server.url or "http://job-server/start", secrets(profile))) == []


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_is_complete(profile: Profile) -> None:
    """It has a name, a description, its documentation, and samples of all that it uses."""
    assert loader.path_of(profile.name).is_file()
    assert profile.description
    assert profile.documentation.startswith("https://") or profile.name == "spreedly"
    kinds = Counter(sample.kind for sample in profile.sample)
    assert {"job", "reply", "callback"} <= kinds.keys()
    assert all(sample.expect for sample in profile.sample)
    for section in ("status", "result"):
        assert (getattr(profile, section) is not None) <= (section in kinds), section
    if profile.status is not None:
        assert {"progress", "succeeded", "failed"} <= {one.expect for one in profile.sample if one.kind == "status"}
    found = {sample.expect for sample in profile.sample}
    assert found & {"succeeded", "ready"}
    assert "failed" in found


#: Bodies that cannot be meant as a refusal.
_NOTHING_SAID = (b"", b"{", b"{}", b"[]", b"null", b'"x"', b"<html>Bad Gateway</html>")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_only_what_says_so_is_a_refusal(profile: Profile) -> None:
    """Otherwise the job may be running, and after `submitted: no` it would run twice."""
    replies = Replies(profile.submit)
    for status, body in itertools.product([*range(200, 400), *range(500, 600)], _NOTHING_SAID):
        reply = replies.read_status(status, retry_after=False) or replies.read(status, {}, body)
        if status not in (profile.submit.busy or ()):
            assert reply.kind not in {ReplyKind.REFUSED, ReplyKind.BUSY}, (status, body)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_begins_with_a_comment_that_names_its_documentation(profile: Profile) -> None:
    """The reader learns where it comes from, and what it was tried with: a server, or only its samples."""
    lines = loader.path_of(profile.name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert "https://" in lines[0] or profile.name == "spreedly"
    (tried,) = [line for line in lines if line.startswith("tried_with = ")]
    assert bool(profile.tried_with) is not tried.endswith("# its samples only")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_reaches_a_worker_whole_and_small(profile: Profile) -> None:
    """Except for its samples: each fork server gets a copy."""
    sent = json.dumps(profile.as_json())
    assert Profile.from_json(json.loads(sent)) == dataclasses.replace(profile, sample=())
    assert len(sent) < 4_000


def test_jenkins_may_be_below_a_path() -> None:
    """All calls go there, also for a job in a folder; the reply does not tell the path."""
    (jenkins,) = [profile for profile in PROFILES if profile.name == "jenkins"]
    assert jenkins.status is not None
    assert jenkins.cancel is not None
    calls = [Call("http://h:8080/jenkins", jenkins.server, section) for section in (jenkins.status, jenkins.cancel)]
    assert [call.request({"path": "a/job/b", "number": "18"}).url for call in calls] == [
        "http://h:8080/jenkins/job/a/job/b/18/api/json",
        "http://h:8080/jenkins/job/a/job/b/18/stop",
    ]
    assert [call.needs for call in calls] == [{"number"}, {"number"}]


def test_a_sample_that_is_not_what_it_says_is_found() -> None:
    """For each expectation."""
    (cog,) = [profile for profile in PROFILES if profile.name == "cog"]
    url = cog.server.url
    wrong = [
        (Sample(kind="challenge", query="token=1", expect="1"), "has nothing that [callback] challenge finds"),
        (Sample(kind="reply", status=202, expect="busy"), "is running instead of busy"),
        (
            Sample(kind="reply", status=200, expect="running"),
            "is bad instead of running: the job server answered 200, which",
        ),
        (
            Sample(kind="callback", body='{"status": "SUCCEEDED"}', expect="succeeded"),
            "is progress instead of succeeded: its state is 'SUCCEEDED'",
        ),
        (Sample(kind="callback", body="{}", expect="succeeded"), "is progress instead of succeeded: it has no state"),
        (
            Sample(kind="callback", body="{", expect="succeeded"),
            "is progress instead of succeeded: the last callback could not be read: ",
        ),
        (
            Sample(kind="callback", body='{"status": "failed", "error": "a"}', expect="failed", error="b"),
            "has the error 'a' instead of 'b'",
        ),
        (
            Sample(kind="callback", body='{"status": "succeeded"}', expect="succeeded", result="1"),
            """has the result '{"status": "succeeded"}' instead of '1'""",
        ),
        (
            Sample(kind="reply", status=202, body='{"id": 7}', expect="running", outputs={"id": "8"}),
            "has the outputs {'id': '7'} instead of {'id': '8'}",
        ),
        (Sample(kind="status", expect="succeeded"), "the profile has no [status]"),
        (Sample(kind="job", body="[]"), "the body is not a job: it is not a JSON object"),
        (
            Sample(kind="job", body="{}", expect='{"method": "POST"}'),
            'sends {"method": "PUT"} instead of {"method": "POST"}',
        ),
    ]
    for sample, words in wrong:
        (problem,) = problems_with(cog, sample, url)
        assert problem.startswith(words)
    assert list(problems_with(cog, Sample(kind="job", body="{}"), url)) == []


def test_a_sample_of_a_result_says_why_there_is_none() -> None:
    """The status of the answer to a result call."""
    (spreedly,) = [profile for profile in PROFILES if profile.name == "spreedly"]
    profile = dataclasses.replace(spreedly, result=Result(url="/"))
    missing = Sample(kind="result", status=404, expect="not-yet")
    assert list(problems_with(profile, missing, "http://x")) == []
    (problem,) = problems_with(profile, dataclasses.replace(missing, expect="ready"), "http://x")
    why = "asked for the job's result, the job server answered 404"
    assert problem == f"is not-yet instead of ready: {why}"
    assert list(problems_with(profile, dataclasses.replace(missing, status=410, expect="failed"), "http://x")) == []


def test_a_samples_headers_are_found_however_their_names_are_written() -> None:
    """As in a message: of replies, answers, callbacks and jobs."""
    profile = Profile(
        name="a",
        submit=Submit(form={"hook": "{callback_url}"}),
        callback=Callback(state='headers."x-state"', succeeded=("done",)),
        status=Status(url="/", state='headers."x-state"', succeeded=("done",)),
        result=Result(url="/", result='headers."x-result"'),
    )
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    samples = [
        Sample(kind="reply", status=503, headers={"Retry-After": "3"}, expect="busy"),
        Sample(kind="callback", headers={"X-State": "done"}, expect="succeeded"),
        Sample(kind="status", headers={"X-State": "done"}, expect="succeeded"),
        Sample(kind="result", headers={"X-Result": "5"}, expect="ready", result='"5"'),
        Sample(
            kind="job",
            headers=form,
            body="a=b",
            expect='{"body": "a=b&hook=https%3A%2F%2Fproxy.example%2Fcallback%2FTOKEN"}',
        ),
    ]
    for sample in samples:
        assert list(problems_with(profile, sample, "http://job-server/")) == []
