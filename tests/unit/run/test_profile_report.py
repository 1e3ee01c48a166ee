"""What `--check` says about profiles."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.run.profile_report import doubt, early_loss, missing_name, sample_findings, submissions, unfound
from shared.job_server import loader


def test_a_result_that_anybody_can_report_is_doubtful() -> None:
    """A job's id is no secret, and there is no other proof."""
    profile = loader.load("github-actions")
    words = "anybody who knows a job's job_id can report its end to /callback/github, as there is no [verify]"
    assert doubt(dataclasses.replace(profile, verify=None)) == f"github-actions: {words}"


@pytest.mark.parametrize("name", loader.shipped())
def test_no_shipped_profile_is(name: str) -> None:
    """The token is a secret, a proof is required, or the outcome is asked for. And notifications can be followed."""
    assert doubt(loader.load(name)) == ""
    assert missing_name(loader.load(name)) == ""
    assert early_loss(loader.load(name)) == ""


def test_a_callback_before_the_reply_should_not_be_lost() -> None:
    """At a fixed URL, it finds no job before the reply has named it, and only a status call could make up for that."""
    profile = loader.load("apify")
    whole = dataclasses.replace(profile.callback, notification_only=False)
    unasked = dataclasses.replace(profile, callback=whole, status=None, result=None)
    assert early_loss(unasked).startswith(
        "apify: a callback that comes before the reply is lost, as its id is known only"
    )
    ours = dataclasses.replace(whole, correlate_with="job_id")
    assert early_loss(dataclasses.replace(unasked, callback=ours)) == ""


def test_a_notification_should_name_its_job() -> None:
    """If the reply was lost, nothing else does."""
    profile = loader.load("soniox")
    silent = dataclasses.replace(profile.callback, outputs={})
    assert missing_name(dataclasses.replace(profile, callback=silent)).startswith(
        "soniox: id is known only from the reply; if that is lost, no notification helps"
    )
    status, result = profile.status, profile.result
    assert status is not None
    assert result is not None
    ours = dataclasses.replace(status, url="/{job_id}", outputs={"id": "body.id"})
    assert missing_name(dataclasses.replace(profile, callback=silent, status=ours)) == ""
    whole = dataclasses.replace(silent, notification_only=False)
    assert missing_name(dataclasses.replace(profile, callback=whole)) == ""


def test_a_notification_reports_nothing() -> None:
    """The outcome comes from the job server itself."""
    profile = loader.load("openai-background")
    assert profile.callback.notification_only
    assert doubt(dataclasses.replace(profile, verify=None)) == ""


@pytest.mark.parametrize("name", loader.shipped())
def test_what_a_shipped_profile_looks_for_is_in_its_samples(name: str) -> None:
    """Or a sample says that it is not."""
    assert list(unfound(loader.load(name))) == []


_PROFILE = """
name = "sought"
[submit]
body = { hook = "{callback_url}" }
outputs = { id = "body.id" }
[callback]
state = "body.state"
succeeded = ["done"]
failed = ["broken"]
result = "body.data"
error = "body.why"
outputs = { page = "body.page" }
[status]
url = "/{id}"
outputs = { file = "body.file" }
[result]
url = "/{file}"
"""
_SAMPLES = """
[[sample]]
kind = "reply"
body = '{"uuid": 1}'
expect = "running"
[[sample]]
kind = "callback"
body = '{"state": "done", "dat": 1}'
expect = "succeeded"
[[sample]]
kind = "status"
body = '{"state": "broken", "error": "a"}'
expect = "failed"
"""


def test_what_is_in_no_sample_may_be_misspelt() -> None:
    """A client would get `null`, and a job would never be asked about."""
    assert list(unfound(loader.parse(_PROFILE))) == []
    assert list(unfound(loader.parse(_PROFILE + _SAMPLES))) == [
        "callback.result: body.data is in no sample of a callback that is succeeded",
        "status.error: body.why is in no sample of a status that is failed",
        "the output id is in no sample: calls that need it cannot be made",
        "the output page is in no sample: calls that need it cannot be made",
    ]
    meant = _SAMPLES.replace('"succeeded"', '"succeeded"\nresult = "null"').replace('"failed"', '"failed"\nerror = ""')
    sound = meant.replace("uuid", "id").replace('"dat": 1', '"page": 2')
    assert list(unfound(loader.parse(_PROFILE + sound))) == []


def test_an_expression_that_finds_no_job_in_any_sample_is_reported() -> None:
    """At a fixed URL, all callbacks would be nobody's."""
    profile = loader.load("apify")
    misspelt = dataclasses.replace(profile.callback, correlate="body.eventData.runId")
    words = "callback.correlate: body.eventData.runId is in no sample of a callback: none finds its job"
    assert list(unfound(dataclasses.replace(profile, callback=misspelt))) == [words]
    assert list(unfound(dataclasses.replace(profile, callback=misspelt, sample=()))) == []


def test_a_submission_is_shown_as_it_is_sent() -> None:
    """Its numbers, too: read and written again, they would be others."""
    (line,) = submissions(loader.load("spreedly"), "http://jobs/start")
    assert '"n":1e400,' in line


def test_a_sample_is_counted_as_by_the_loader() -> None:
    """Whose errors are about `sample[0]`, too."""
    profile = loader.load("spreedly")
    first = next(one for one in profile.sample if one.kind == "callback" and one.expect == "succeeded")
    wrong = dataclasses.replace(profile, sample=(dataclasses.replace(first, expect="failed"), first))
    (line,) = sample_findings(wrong, "http://job-server/start")[1]
    assert line.startswith("sample[0], a callback, ")
