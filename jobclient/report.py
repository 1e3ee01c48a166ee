"""The result of a run: the figures, the verdict, and how both are printed."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from jobclient.answers import Answer, Failed, Succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One job after its last attempt."""

    answer: Answer
    #: From the first attempt to the last byte of the last one.
    duration_s: float
    #: The number of retries.
    resent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Failures of one kind."""

    code: str
    status: int | None
    count: int
    #: The detail of one of them.
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run. Durations are over all jobs, failed ones included."""

    jobs: int
    succeeded: int
    #: The number of different ids among the successful jobs.
    ids: int
    #: The most frequent kind first.
    failures: tuple[Group, ...]
    resent: int
    average_s: float
    p50_s: float
    p99_s: float
    total_s: float
    limit_s: float

    @property
    def failed(self) -> int:
        """How many jobs did not succeed."""
        return self.jobs - self.succeeded

    @property
    def passed(self) -> bool:
        """Every job succeeded, no two have the same id, and the run stayed under its limit."""
        return self.succeeded == self.jobs == self.ids and self.total_s < self.limit_s


def summarize(finished: Sequence[Finished], *, total_s: float, limit_s: float) -> Report:
    """Count the results of the jobs, of which there is at least one."""
    ids: set[str] = set()
    succeeded = 0
    kinds: Counter[tuple[str, int | None]] = Counter()
    examples: dict[tuple[str, int | None], str] = {}
    for job in finished:
        match job.answer:
            case Succeeded(job_id=job_id):
                succeeded += 1
                if job_id is not None:
                    ids.add(job_id)
            case Failed(code=code, status=status, detail=detail):
                kinds[code, status] += 1
                examples.setdefault((code, status), detail)
            case _:
                assert_never(job.answer)
    durations_s = sorted(job.duration_s for job in finished)
    return Report(
        jobs=len(finished),
        succeeded=succeeded,
        ids=len(ids),
        failures=tuple(
            Group(code=code, status=status, count=count, example=examples[code, status])
            for (code, status), count in kinds.most_common()
        ),
        resent=sum(job.resent for job in finished),
        average_s=math.fsum(durations_s) / len(durations_s),
        p50_s=percentile(durations_s, 50),
        p99_s=percentile(durations_s, 99),
        total_s=total_s,
        limit_s=limit_s,
    )


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` of 100 values do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def as_text(report: Report) -> str:
    """The summary for a person. Lines about failures appear only if there are any."""
    lines = [f"Succeeded: {report.succeeded}"]
    if report.failed:
        lines.append(f"Failed: {report.failed}")
        lines.extend(_failure_line(group) for group in report.failures)
    if report.ids != report.succeeded:
        lines.append(f"Distinct Ids: {report.ids} of {report.succeeded}")
    if report.resent:
        lines.append(f"Sent Again: {report.resent}")
    lines.append(f"Average Duration: {report.average_s:.9f} seconds")
    lines.append(f"Total Duration: {report.total_s:.9f} seconds")
    if report.total_s >= report.limit_s:
        lines.append(f"Limit Missed: {report.limit_s:g} seconds")
    lines += ["", f"WORK SAMPLE RESULT: {'PASSED' if report.passed else 'FAILED'}"]
    return "\n".join(lines)


def _failure_line(group: Group) -> str:
    named = group.status is None or group.code == f"status-{group.status}"
    kind = group.code if named else f"{group.status} {group.code}"
    # A server may send anything; keep its control characters from the terminal.
    example = "".join(character if character.isprintable() else " " for character in group.example)
    kind = "".join(character if character.isprintable() else " " for character in kind)
    return f"  {group.count} x {kind}: {example}" if example else f"  {group.count} x {kind}"


def as_json(report: Report) -> str:
    """The report for a program, one JSON object on one line."""
    by_code: Counter[str] = Counter()
    for group in report.failures:
        by_code[group.code] += group.count
    return json.dumps(
        {
            "jobs": report.jobs,
            "succeeded": report.succeeded,
            "failed": report.failed,
            "by_code": dict(by_code),
            "ids": report.ids,
            "resent": report.resent,
            "average_s": report.average_s,
            "p50_s": report.p50_s,
            "p99_s": report.p99_s,
            "total_s": report.total_s,
            "limit_s": report.limit_s,
            "passed": report.passed,
        }
    )
