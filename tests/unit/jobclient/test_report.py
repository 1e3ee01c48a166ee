"""The figures of a run, the verdict and the two ways to print them."""

import dataclasses
import json

import pytest

from jobclient.answers import Failed, Reached, Succeeded
from jobclient.report import Finished, as_json, as_text, percentile, summarize

DONE = [Finished(answer=Succeeded(job_id=str(n)), duration_s=1.0 + n) for n in range(3)]
DIED = Finished(
    answer=Failed(code="worker-died", detail="It ended.", reached=Reached.ANSWERED, status=500),
    duration_s=0.5,
    resent=2,
)
REFUSED = Finished(
    answer=Failed(code="connection-failed", detail="Refused.", reached=Reached.NOTHING_SENT), duration_s=0.1
)
GATEWAY = Finished(answer=Failed(code="status-502", detail="", reached=Reached.ANSWERED, status=502), duration_s=0.1)


def test_the_summary_of_a_good_run_is_the_agreed_one() -> None:
    """Nothing more than these lines, so that scripts may compare them."""
    report = summarize(DONE, total_s=3.25, limit_s=5)

    assert as_text(report) == (
        "Succeeded: 3\n"
        "Average Duration: 2.000000000 seconds\n"
        "Total Duration: 3.250000000 seconds\n"
        "\n"
        "WORK SAMPLE RESULT: PASSED"
    )


def test_the_summary_of_a_bad_run_groups_the_failures() -> None:
    """The most frequent kind comes first, each with the detail of one example."""
    report = summarize([REFUSED, DIED, GATEWAY, *DONE, DIED], total_s=6.0, limit_s=5)

    assert as_text(report).splitlines() == [
        "Succeeded: 3",
        "Failed: 4",
        "  2 x 500 worker-died: It ended.",
        "  1 x connection-failed: Refused.",
        "  1 x status-502",
        "Sent Again: 4",
        "Average Duration: 1.028571429 seconds",
        "Total Duration: 6.000000000 seconds",
        "Limit Missed: 5 seconds",
        "",
        "WORK SAMPLE RESULT: FAILED",
    ]


def test_a_run_passes_only_under_its_limit() -> None:
    """A total equal to the limit does not pass."""
    assert summarize(DONE, total_s=4.999, limit_s=5).passed
    assert not summarize(DONE, total_s=5.0, limit_s=5).passed


def test_a_run_with_one_failure_does_not_pass() -> None:
    """Every job has to succeed."""
    assert not summarize([*DONE, DIED], total_s=1.0, limit_s=5).passed


@pytest.mark.parametrize("job_id", ["0", None])
def test_a_run_with_the_same_id_twice_or_with_none_does_not_pass(job_id: str | None) -> None:
    """Two jobs with one answer mean that one got another's result."""
    report = summarize([*DONE, Finished(answer=Succeeded(job_id=job_id), duration_s=1.0)], total_s=1.0, limit_s=5)

    assert not report.passed
    assert "Distinct Ids: 3 of 4" in as_text(report)


def test_control_characters_of_a_server_do_not_reach_the_terminal() -> None:
    """An answer cannot move the cursor or forge a line of the summary."""
    answer = Failed(code="x\x1b[2J", detail="a\nWORK SAMPLE RESULT: PASSED", reached=Reached.ANSWERED, status=500)
    text = as_text(summarize([Finished(answer=answer, duration_s=1.0)], total_s=1.0, limit_s=5))

    assert "\x1b" not in text
    assert "WORK SAMPLE RESULT: PASSED" not in text.splitlines()


def test_the_json_report_holds_every_figure() -> None:
    """A program gets the same facts as a person, counted by code."""
    other_status = dataclasses.replace(
        DIED, answer=Failed(code="worker-died", detail="", reached=Reached.ANSWERED, status=502)
    )
    report = summarize([*DONE, DIED, other_status, REFUSED], total_s=2.0, limit_s=5)

    assert json.loads(as_json(report)) == {
        "jobs": 6,
        "succeeded": 3,
        "failed": 3,
        "by_code": {"worker-died": 2, "connection-failed": 1},
        "ids": 3,
        "resent": 4,
        "average_s": pytest.approx(7.1 / 6),
        "p50_s": 0.5,
        "p99_s": 3.0,
        "total_s": 2.0,
        "limit_s": 5,
        "passed": False,
    }


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: no value is interpolated."""
    hundred = [float(n) for n in range(1, 101)]

    assert [percentile(hundred, percent) for percent in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
