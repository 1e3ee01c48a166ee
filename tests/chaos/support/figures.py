"""What the front end counts: one reading of its metrics page, and the increase between two."""

from __future__ import annotations

from collections import Counter
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Figures"]

_PREFIX: Final = "async_job_proxy_"


class Figures:
    """One reading of the metrics page."""

    def __init__(self, text: str) -> None:
        """Read the page `text`."""
        self._lines = text.splitlines(keepends=True)

    def by(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """Return the metric `name` by the values of its `labels`; values of zero are left out."""
        found: Counter[tuple[str, ...]] = Counter()
        for sample in self._samples(name):
            found[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return Counter({values: count for values, count in found.items() if count})

    def value(self, name: str) -> int:
        """Return the metric `name`, summed over all its labels."""
        return sum(int(sample.value) for sample in self._samples(name))

    def added(self, before: Figures, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """Return the increase of the counter `name` since `before`, by its `labels`."""
        return self.by(name, *labels) - before.by(name, *labels)

    def added_in_all(self, before: Figures, name: str) -> int:
        """Return the increase of the counter `name` since `before`."""
        return self.value(name) - before.value(name)

    def _samples(self, name: str) -> list[Sample]:
        """Return the samples of a metric. Only its lines are parsed: the whole page takes milliseconds."""
        lines = "".join(line for line in self._lines if line.startswith(_PREFIX + name))
        samples = [sample for family in text_string_to_metric_families(lines) for sample in family.samples]
        return [sample for sample in samples if sample.name == _PREFIX + name]
