"""The metrics of the queue, read at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.observe.gauges import counter, gauge, labelled
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
        fates = {str(fate): counts.by_fate[fate] for fate in Fate}
        words = "Deliveries of messages by what happened to them."
        yield labelled(CounterMetricFamily, "queue_messages", words, "fate", fates)
        yield counter("queue_receives", "Calls for messages that were answered.", counts.receives)
        yield counter("queue_receive_errors", "Calls for messages that failed.", counts.receive_errors)
        yield gauge("queue_in_hand", "Messages that are being dealt with.", counts.in_hand)
        words = "Age of the oldest message of the last delivery; 0 when the queue was empty."
        yield gauge("queue_oldest_seconds", words, counts.oldest_s)
        yield gauge("queue_unavailable", "1 while the queue cannot be read.", bool(counts.trouble))
