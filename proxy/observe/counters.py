"""Metrics that are counted as things happen, and the page that shows them together with those of the live state.

A finished job costs a few microseconds here: the children of every label are bound once, before the first job. Live
state (jobs in flight, workers, the pool's own counts) is only read at a scrape: proxy/observe/gauges.py.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from proxy.http.problems import TABLE
from proxy.jobs.trail import PHASES
from shared.errors import Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.jobs.job import Job

__all__ = ["CONTENT_TYPE", "PREFIX", "Metrics"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "async_job_proxy"

_FINE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_COARSE_S: Final = (*_FINE_S, 5, 10, 30, 60)
_ADMISSION_STATUS: Final = 503
_FAILURE_STATUS: Final = 500
#: The codes that refuse a request, but may also be the failure of a job of which nothing was submitted.
_EITHER: Final = (Code.NO_WORKER, Code.JOURNAL_UNAVAILABLE)
#: The codes of failed jobs.
_FAILURES: Final = (*(code for code, entry in TABLE.items() if entry.status == _FAILURE_STATUS), *_EITHER)

#: The label of jobs from the journal whose profile is not served any more.
_OTHER: Final = "other"

# The extra time series with the time of creation would double what is stored, and nobody needs them here.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters and histograms of one application, in a registry of their own."""

    def __init__(self, profiles: Iterable[str] = ()) -> None:
        """`profiles`: the names of those that are served; no other gets a label of its own."""
        self.registry = CollectorRegistry()
        jobs = Counter(
            "jobs",
            "Finished jobs by profile, outcome (succeeded, or the problem's code), and whether they were submitted.",
            ("profile", "outcome", "submitted"),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._profiles = frozenset(profiles)
        # A series that began with its first job would hide that job from `increase`, and so from the alerts.
        names = (*self._profiles, _OTHER)
        self._succeeded = {name: jobs.labels(name, "succeeded", str(Submitted.YES)) for name in names}
        self._failed = {
            (name, code, submitted): jobs.labels(name, str(code), str(submitted))
            for name in names
            for code in _FAILURES
            for submitted in Submitted
            if code not in _EITHER or submitted is Submitted.NO
        }
        self._jobs = jobs
        #: The submissions of finished jobs, by profile, call (`submit`) and outcome.
        self.submissions: Tally[tuple[str, str, str]] = Tally()
        self._duration = self._histogram(
            "job_duration_seconds", "Time from a job's acceptance to its outcome.", _COARSE_S
        )
        phase = Histogram(
            "job_phase_seconds",
            "Duration of each phase of a job; a phase that a failure interrupted counts as well.",
            ("phase",),
            namespace=PREFIX,
            registry=self.registry,
            buckets=_COARSE_S,
        )
        self._phases = {name: phase.labels(name) for name in PHASES}
        self.loop_lag = self._histogram("event_loop_lag_seconds", "Delay of a timer in the event loop.", _FINE_S)
        self._admission = Counter(
            "admission_refusals",
            "Requests refused with 503 before there was a job, by code.",
            ("code",),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._requests = Counter(
            "request_errors",
            "Invalid requests by code; internal-error is a bug in the proxy.",
            ("code",),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._certificate = Gauge(
            "certificate_expiration_timestamp_seconds",
            "When the certificate that is used expires, in Unix seconds, by setting.",
            ("setting",),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._refused = {
            code: (self._admission if entry.status == _ADMISSION_STATUS else self._requests).labels(str(code))
            for code, entry in TABLE.items()
            if code not in _FAILURES or code in {*_EITHER, Code.INTERNAL_ERROR}
        }

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, words, namespace=PREFIX, registry=self.registry, buckets=buckets)

    def job_finished(self, job: Job, outcome: Outcome, durations: dict[str, float]) -> None:
        """Count a finished job, and the duration of each of its phases."""
        name = job.profile if job.profile in self._profiles else _OTHER
        if isinstance(outcome, Failed):
            child = self._failed.get((name, outcome.code, outcome.submitted))
            (child or self._jobs.labels(name, str(outcome.code), str(outcome.submitted))).inc()
        else:
            self._succeeded[name].inc()
        self._count_submissions(name, job)
        for phase, duration_s in durations.items():
            self._phases[phase].observe(duration_s)
        if durations:
            self._duration.observe(job.reached[State.FINISHED] - job.reached[State.ACCEPTED])

    def _count_submissions(self, name: str, job: Job) -> None:
        """Count each attempt to submit `job`. One without a reply counts as accepted if a callback came."""
        is_open = False
        for _, event in job.life:
            match event:
                case Event.CONNECTED:
                    is_open = True
                case Event.REPLY_READ:
                    is_open = False
                    self.submissions[name, "submit", "accepted"] += 1
                case Event.REFUSED:
                    is_open = False
                    self.submissions[name, "submit", "refused"] += 1
                case _:
                    pass
        if is_open:
            self.submissions[name, "submit", "accepted" if job.recorder.called_back else "no-reply"] += 1

    def request_refused(self, code: Code) -> None:
        """Count a request that was refused before there was a job."""
        child = self._refused.get(code)
        (child or self._requests.labels(str(code))).inc()

    def certificate_is_used(self, ends_at: float) -> None:
        """Note when the proxy's own certificate expires, in Unix seconds."""
        self._certificate.labels("TLS_CERTFILE").set(ends_at)

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)
