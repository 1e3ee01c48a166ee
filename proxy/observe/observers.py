"""What happens when a job is finished or a request is refused: log, metrics, history, traces.

Nothing here may change what a client gets, so an exception here is only logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.trail import phases
from proxy.observe.counters import Metrics
from proxy.observe.history import History
from proxy.observe.job_server_health import JobServerHealth
from proxy.observe.loop_lag import LoopLag

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from proxy.observe.tracing import Tracing
    from shared.errors import Code
    from shared.outcome import Outcome

__all__ = ["Observers"]


class Observers:
    """Everything that watches one front end."""

    def __init__(self, tracing: Tracing | None = None, profiles: Iterable[str] = ()) -> None:
        """`profiles`: the names of those that are served."""
        self.tracing = tracing
        served = tuple(profiles)
        self.metrics = Metrics(served)
        self.history = History()
        self.job_servers = JobServerHealth(served)
        self.loop_lag = LoopLag(self.metrics.loop_lag.observe)
        self._on_finish: list[Callable[[Job, Outcome, dict[str, float]], None]] = [
            log_lines.job_line,
            self.metrics.job_finished,
            self.history.job_finished,
            self.job_servers.job_finished,
        ]
        if tracing is not None:
            self._on_finish.append(tracing.job_finished)

    def job_began(self, job: Job) -> None:
        """Report an accepted job, before anything is done with it."""
        if self.tracing is not None:
            try:
                self.tracing.job_began(job)
            except Exception as exc:  # noqa: BLE001 - a job runs, traced or not
                log_lines.job_event("error", "a new job could not be reported", job, **log.exception_fields(exc))

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        """Report a finished job."""
        durations = phases(job)
        for note in self._on_finish:
            try:
                note(job, outcome, durations)
            except Exception as exc:  # noqa: BLE001 - the job has its outcome, and no other job may suffer
                log_lines.job_event("error", "a finished job could not be reported", job, **log.exception_fields(exc))

    async def close(self) -> None:
        """Send what has not been sent yet."""
        self.loop_lag.stop()
        if self.tracing is not None:
            await self.tracing.close()

    def request_refused(self, code: Code) -> None:
        """Report a request that was refused before there was a job."""
        self.metrics.request_refused(code)
