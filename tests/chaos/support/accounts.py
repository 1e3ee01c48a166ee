"""The accounts of one test, and the differences between them (I4, I5).

Four sides keep accounts: the clients (answers), the front end's log, its counters, and the job server's ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.support.figures import Figures
from tests.chaos.support.reply import Reply
from tests.support.http import Answer

__all__ = ["Accounts"]

Line = dict[str, Any]
#: How the callback route counts a callback that it answers with this status; for 2xx there are several kinds.
_KINDS: Final = {404: "unknown", 400: "refused", 408: "refused", 413: "refused", 503: "unrecorded"}
_TAKEN: Final = ("accepted", "duplicate", "late")
#: Gauges that are zero when nothing is under way.
_AT_REST: Final = ("jobs_in_flight", "draining", "workers_on_hold", "journal_unavailable", "journal_backlog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What the sides know about one test; each account begins with the test."""

    replies: list[Reply]
    #: The answers to the test's own callbacks.
    called_back: list[Answer]
    #: Requests whose answers nobody reads, so that their outcomes are unknown.
    unheard: float
    #: The log lines about ends of jobs, and those about late results.
    ended: list[Line]
    late: int
    #: The part of the job server's ledger that is about this proxy.
    submissions: list[Line]
    callbacks: list[Line]
    #: The front end's counters; None if they are gone together with the front end.
    before: Figures
    after: Figures | None
    #: How many jobs have clients that left.
    abandoned: int = field(default=0)

    def differences(self) -> list[str]:
        """Describe each difference; empty if everything agrees."""
        found = [*self._of_jobs(), *self._of_ledger()]
        if self.after is not None:
            found += [*self._of_counters(self.after), *self._of_refusals(self.after), *self._of_callbacks(self.after)]
        return found

    def _of_jobs(self) -> Iterator[str]:
        """Compare answers and log: each job ends once, and as its client was told."""
        answered = {reply.job_id: reply for reply in self.replies if reply.job_id is not None}
        if len(answered) != sum(reply.job_id is not None for reply in self.replies):
            yield "two jobs have one id"
        ends = {line["job_id"]: (line["outcome"], line["submitted"]) for line in self.ended}
        if len(ends) != len(self.ended):
            yield "a job ended twice"
        if len(ends) != len(answered) + self.abandoned:
            yield f"{len(answered)} jobs were answered and {self.abandoned} abandoned, but {len(ends)} have ended"
        for job_id, reply in answered.items():
            told = (reply.code or "succeeded", reply.submitted)
            if ends.get(str(job_id)) != told:
                yield f"a client was told {told}, the log says {ends.get(str(job_id))}: {reply}"

    def _of_ledger(self) -> Iterator[str]:
        """Compare answers, log and ledger: `submitted` is true, and no job ran twice."""
        runs = Counter(entry["ref"] for entry in self.submissions if not entry["refused"])
        for reply in self.replies:
            allowed = {"no": {0}, "yes": {1}, "unknown": {0, 1}}[reply.submitted]
            if runs[reply.ref] not in allowed:
                yield f"said {reply.submitted!r}, but the job server has it {runs[reply.ref]} times: {reply}"
        if twice := [ref for ref, count in runs.items() if count > 1]:
            yield f"submitted twice: {twice}"
        said = Counter(line["submitted"] for line in self.ended)
        if self.after is not None and not said["yes"] <= runs.total() <= said["yes"] + said["unknown"]:
            yield f"the log says {said}, but the job server has {runs.total()} submissions that it did not refuse"

    def _of_counters(self, after: Figures) -> Iterator[str]:
        """Compare log and counters, and check that the gauges are at rest."""
        logged: Counter[tuple[str, ...]] = Counter((line["outcome"], line["submitted"]) for line in self.ended)
        counted = after.added(self.before, "jobs_total", "outcome", "submitted")
        if logged != counted:
            yield f"jobs by outcome: the log has {logged - counted} more, the counters {counted - logged}"
        accepted = after.added_in_all(self.before, "jobs_accepted_total")
        if accepted != len(self.ended):
            yield f"{accepted} jobs were accepted, {len(self.ended)} have ended"
        for name in _AT_REST:
            if value := after.value(name):
                yield f"{name} is {value}"
        if bugs := after.added(self.before, "request_errors_total", "code")["internal-error",]:
            yield f"internal-error was counted {bugs} times"
        for name in ("log_lines_dropped_total", "journal_records_given_up_total"):
            if lost := after.added_in_all(self.before, name):
                yield f"{name} grew by {lost}"

    def _of_refusals(self, after: Figures) -> Iterator[str]:
        """Compare answers and counters: requests that were refused before a job was made."""
        refused = [str(reply.code) for reply in self.replies if reply.status == 503 and reply.job_id is None]
        seen: Counter[tuple[str, ...]] = Counter((code,) for code in refused)
        callbacks = sum(status == 503 for status in self._callback_statuses())
        if callbacks:
            seen["journal-unavailable",] += callbacks
        counted = after.added(self.before, "admission_refusals_total", "code")
        if seen - counted or not (counted - seen).total() <= self.unheard:
            yield f"refusals: clients saw {seen}, the counters say {counted} ({self.unheard} went unheard)"

    def _of_callbacks(self, after: Figures) -> Iterator[str]:
        """Compare ledger, the test's own callbacks, log and counters: callbacks by kind."""
        counted = {kind: count for (kind,), count in after.added(self.before, "callbacks_total", "kind").items()}
        statuses = self._callback_statuses()
        doubt = self.unheard + sum(status is None for status in statuses)
        sent = Counter("taken" if status == 200 else _KINDS[status] for status in statuses if status is not None)
        for kind in ("taken", "unknown", "refused", "unrecorded"):
            count = sum(counted.get(name, 0) for name in (_TAKEN if kind == "taken" else (kind,)))
            if not sent[kind] <= count <= sent[kind] + doubt:
                yield f"callbacks {kind}: {sent[kind]} were sent (in doubt: {doubt}), {count} counted: {counted}"
        told = Counter(answer.document["status"] for answer in self.called_back if answer.status == 200)
        for kind, count in told.items():
            if counted.get(kind, 0) < count:
                yield f"{count} callbacks were told to be {kind}, {counted.get(kind, 0)} were counted"
        if counted.get("late", 0) != self.late:
            yield f"late callbacks: {self.late} in the log, {counted.get('late', 0)} counted"
        submitted = sum(line["submitted"] != "no" for line in self.ended)
        first = counted.get("accepted", 0) + counted.get("never", 0)
        if not submitted - counted.get("unrecorded", 0) <= first <= submitted:
            yield f"{submitted} jobs were or may have been submitted, but accepted and never are {first}: {counted}"

    def _callback_statuses(self) -> list[int | None]:
        return [entry["status"] for entry in self.callbacks] + [answer.status for answer in self.called_back]
