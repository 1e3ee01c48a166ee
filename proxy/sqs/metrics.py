"""The metrics of the queue, read at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.observe.counters import PREFIX
from proxy.sqs.counts import Fate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from proxy.sqs.counts import Counts

__all__ = ["QueueMetrics"]


class QueueMetrics(Collector):
    """Reads the counts."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the state is read only at a scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        counts = self._counts
        fates = CounterMetricFamily(
            f"{PREFIX}_queue_messages", "Deliveries of messages by what happened to them.", labels=("fate",)
        )
        for fate in Fate:
            fates.add_metric((str(fate),), counts.by_fate[fate])
        yield fates
        yield CounterMetricFamily(
            f"{PREFIX}_queue_receives", "Calls for messages that were answered.", value=counts.receives
        )
        yield CounterMetricFamily(
            f"{PREFIX}_queue_receive_errors", "Calls for messages that failed.", value=counts.receive_errors
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_queue_in_hand", "Messages that are being dealt with.", value=float(counts.in_hand)
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_queue_oldest_seconds",
            "Age of the oldest message of the last delivery; 0 when the queue was empty.",
            value=counts.oldest_s,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_queue_unavailable", "1 while the queue cannot be read.", value=float(bool(counts.trouble))
        )
