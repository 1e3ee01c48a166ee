"""What is counted for a finished job, and by which labels."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from proxy.http.problems import TABLE
from proxy.observe.counters import Metrics
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.outcome import Failed, Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.jobs.job import Job

FAILED = Failed(code=Code.JOB_REJECTED, detail="", submitted=Submitted.NO)


def a_job(profile: str, *events: Event, called_back: bool = False) -> Job:
    """Return the parts of a finished job that are counted."""
    life = [(0.0, event) for event in events]
    return cast("Job", SimpleNamespace(profile=profile, life=life, recorder=SimpleNamespace(called_back=called_back)))


@pytest.mark.parametrize("outcome", [Succeeded(body=b""), FAILED])
def test_only_profiles_that_are_served_have_a_label_of_their_own(outcome: Outcome) -> None:
    """A journal may have jobs of other profiles."""
    metrics = Metrics(["cog", "a2a"])
    for profile in ("cog", "gone", "gone too"):
        metrics.job_finished(a_job(profile), outcome, {})
    lines = metrics.text().decode().splitlines()
    counted = [line for line in lines if line.startswith("async_job_proxy_jobs_total") and not line.endswith(" 0.0")]
    found = {line.partition('profile="')[2].partition('"')[0]: line.rpartition(" ")[2] for line in counted}
    assert found == {"cog": "1.0", "other": "2.0"}


@pytest.mark.parametrize("profile", ["cog", "gone"])
@pytest.mark.parametrize(
    ("code", "submitted"),
    [
        (Code.INTERRUPTED, Submitted.UNKNOWN),
        (Code.NO_WORKER, Submitted.NO),
        (Code.JOURNAL_UNAVAILABLE, Submitted.NO),
        (Code.INTERNAL_ERROR, Submitted.UNKNOWN),
    ],
)
def test_alerts_see_the_first_job_that_fails(profile: str, code: Code, submitted: Submitted) -> None:
    """`increase` is 0 for a series that begins with 1, so all of them begin with 0, also for other profiles."""
    metrics = Metrics(["cog"])
    name = "cog" if profile == "cog" else "other"
    series = f'async_job_proxy_jobs_total{{outcome="{code}",profile="{name}",submitted="{submitted}"}}'
    assert f"{series} 0.0" in metrics.text().decode().splitlines()
    metrics.job_finished(a_job(profile), Failed(code=code, detail="", submitted=submitted), {})
    assert f"{series} 1.0" in metrics.text().decode().splitlines()


@pytest.mark.parametrize("code", [code for code in Code if TABLE[code].status != 500 or code is Code.INTERNAL_ERROR])
def test_alerts_see_the_first_request_that_is_refused(code: Code) -> None:
    """Whatever refuses a request before there is a job has a series from the start."""
    name = "admission_refusals" if TABLE[code].status == 503 else "request_errors"
    metrics = Metrics()
    series = f'async_job_proxy_{name}_total{{code="{code}"}}'
    assert f"{series} 0.0" in metrics.text().decode().splitlines()
    metrics.request_refused(code)
    assert f"{series} 1.0" in metrics.text().decode().splitlines()


@pytest.mark.parametrize(
    ("events", "called_back", "expected"),
    [
        ((Event.CONNECTED, Event.REPLY_READ), True, {"accepted": 1}),
        ((Event.CONNECTED, Event.REFUSED), False, {"refused": 1}),
        (
            (Event.REFUSED, Event.CONNECTED, Event.REFUSED, Event.CONNECTED, Event.REPLY_READ),
            False,
            {"refused": 2, "accepted": 1},
        ),
        ((Event.CONNECTED,), False, {"no-reply": 1}),
        ((Event.CONNECTED, Event.CALLBACK), True, {"accepted": 1}),
        ((Event.ASSIGN, Event.FINISH), False, {}),
    ],
)
def test_each_attempt_to_submit_a_job_counts(
    events: tuple[Event, ...], called_back: bool, expected: dict[str, int]
) -> None:
    """By its outcome."""
    metrics = Metrics(["cog"])
    metrics.job_finished(a_job("cog", *events, called_back=called_back), FAILED, {})
    assert metrics.submissions == Counter({("cog", "submit", outcome): count for outcome, count in expected.items()})
