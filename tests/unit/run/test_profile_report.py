"""What `--check` says about profiles."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.run.profile_report import doubt
from shared.job_server import loader


def test_a_result_that_anybody_can_report_is_doubtful() -> None:
    """A job's id is no secret, and there is no other proof."""
    profile = loader.load("github-actions")
    words = "anybody who knows a job's job_id can report its end to /callback/github, as there is no [verify]"
    assert doubt(dataclasses.replace(profile, verify=None)) == f"github-actions: {words}"


@pytest.mark.parametrize("name", loader.shipped())
def test_no_shipped_profile_is(name: str) -> None:
    """The token is a secret, a proof is required, or the outcome is asked for."""
    assert doubt(loader.load(name)) == ""


def test_a_notification_reports_nothing() -> None:
    """The outcome comes from the job server itself."""
    profile = loader.load("openai-background")
    assert profile.callback.notification_only
    assert doubt(dataclasses.replace(profile, verify=None)) == ""
