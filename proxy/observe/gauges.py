"""The metrics that are read from live state at a scrape, instead of being counted as things happen."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy import log
from proxy.jobs.callback_intake import CallbackFate
from proxy.observe.counters import PREFIX
from shared.lifecycle import IN_FLIGHT
from shared.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.elsewhere import Elsewhere
    from proxy.jobs.in_flight import InFlight
    from proxy.store.protocol import JobStore
    from proxy.workers.status import PoolStatus

__all__ = ["LiveMetrics", "counter", "gauge", "labelled"]

_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)


class LiveMetrics(Collector):
    """Reads the pool, the jobs in flight and the intake at each scrape."""

    def __init__(
        self,
        *,
        pool_status: Callable[[], PoolStatus],
        in_flight: InFlight,
        dispatcher: Dispatcher,
        callback_intake: CallbackIntake,
        elsewhere: Elsewhere,
        calls: Sequence[Mapping[tuple[str, str, str], int]],
        store: JobStore,
        max_jobs: int,
    ) -> None:
        self._pool_status = pool_status
        self._in_flight = in_flight
        self._dispatcher = dispatcher
        self._callback_intake = callback_intake
        self._elsewhere = elsewhere
        #: The number of calls to job servers, by profile, call and outcome, from each part that makes some.
        self._calls = calls
        self._store = store
        self._max_jobs = max_jobs

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the state is read only at a scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "1; its labels say what runs.", labels=("version", "python"))
        build.add_metric((VERSION, platform.python_version()), 1)
        yield build
        yield from self._of_jobs()
        yield from self._of_workers()
        counts = self._callback_intake.counts
        kinds = {str(kind): counts[kind] for kind in CallbackFate}
        words = "Callbacks by kind; early ones count as accepted, too."
        yield labelled(CounterMetricFamily, "callbacks", words, "kind", kinds)
        yield from self._of_instances()
        yield self._of_calls()
        yield from self._of_store()
        lost = log.dropped_lines()
        yield counter("log_lines_dropped", "Log lines lost because their output was blocked.", lost)

    def _of_jobs(self) -> Iterator[Metric]:
        by_state, draining = self._in_flight.by_state(), self._dispatcher.draining
        yield counter("jobs_accepted", "Accepted jobs.", self._in_flight.added)
        values = {str(state): by_state[state] for state in IN_FLIGHT}
        yield labelled(GaugeMetricFamily, "jobs_in_flight", "Jobs in flight by state.", "state", values)
        words = "Jobs in flight that an earlier process or another instance left open: MAX_JOBS does not count them."
        yield gauge("jobs_left_open", words, self._in_flight.left_open)
        yield gauge("jobs_limit", "The limit of jobs in flight: MAX_JOBS.", self._max_jobs)
        yield gauge("draining", "1 while the proxy is draining: it accepts no new jobs.", draining)
        paused = self._dispatcher.pause.since is not None
        yield gauge("intake_paused", "1 while operators have paused the intake of new jobs.", paused)

    def _of_calls(self) -> Metric:
        calls = CounterMetricFamily(
            f"{PREFIX}_job_server_calls",
            "Calls to job servers by profile, call and outcome; submissions count when their job is finished.",
            labels=("profile", "call", "outcome"),
        )
        for counts in self._calls:
            for labels, count in counts.items():
                calls.add_metric(labels, count)
        return calls

    def _of_workers(self) -> Iterator[Metric]:
        pool = self._pool_status()
        counts = pool.counts
        yield labelled(GaugeMetricFamily, "workers", "Worker processes by state.", "state", pool.by_state)
        yield gauge("workers_on_hold", "1 while no worker can be started and new jobs are refused.", bool(pool.on_hold))
        yield counter("worker_starts", "Started workers.", counts.started)
        yield counter("worker_reuses", "How often a worker was kept for another job.", counts.reused)
        yield counter("worker_stops", "Workers stopped because their job failed.", counts.stopped)
        yield counter("worker_spare_deaths", "Idle workers that died.", counts.spares_died)
        yield counter("worker_start_failures", "Workers that could not be started.", counts.failed_forks)
        yield counter("worker_storms", "How often so many spares died that new jobs were refused.", counts.storms)
        restarts = max(0, counts.fork_servers - 1)
        yield counter("fork_server_restarts", "How often the process that forks workers was replaced.", restarts)

    def _of_instances(self) -> Iterator[Metric]:
        taken_over, elsewhere = self._dispatcher.taken_over, self._elsewhere
        yield counter("jobs_taken_over", "Jobs of instances that were gone, which this one has taken over.", taken_over)
        yield counter(
            "callbacks_elsewhere", "Callbacks of this instance's jobs that another one recorded.", elsewhere.callbacks
        )
        yield counter("writes_fenced", "Writes that the store refused: another instance had the job.", elsewhere.fenced)

    def _of_store(self) -> Iterator[Metric]:
        for reading in self._store.readings():
            make = counter if reading.counter else gauge
            yield make(reading.name, reading.help, reading.value)


def counter(name: str, words: str, value: float) -> CounterMetricFamily:
    """Return a counter without labels."""
    return CounterMetricFamily(f"{PREFIX}_{name}", words, value=value)


def gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, value=float(value))


def labelled(kind: type[_Family], name: str, words: str, label: str, values: Mapping[str, int]) -> _Family:
    """Return a metric with one label, and its value for each value of the label."""
    family = kind(f"{PREFIX}_{name}", words, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family
