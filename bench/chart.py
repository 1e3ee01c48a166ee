"""The chart of docs/performance.md: plain SVG, readable on light and on dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from bench.contenders.table import CONTENDERS
from bench.measures import Results, Round

__all__ = ["draw"]

_WIDTH: Final = 860
_LABEL: Final = 330
_BARS: Final = 400
_ROW: Final = 30
_HEAD: Final = 44
_STYLE: Final = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .ours { fill: #0969da; }
  .other { fill: #8c959f; }
  .range { stroke: #1f2328; stroke-width: 1.5; }
  .axis { stroke: #8c959f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #4493f8; }
    .other { fill: #6e7681; }
    .range { stroke: #e6edf3; }
  }
"""


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    ours: bool
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def draw(results: Results) -> str:
    """Return the chart: jobs a second and CPU for a job, each contender a bar with its lowest and highest round."""
    panels = [
        ("Jobs per second (longer is better)", "{:.0f}", _bars(results, lambda one: one.jobs_per_s)),
        (
            "CPU per job, all processes, ms (shorter is better)",
            "{:.1f}",
            _bars(results, lambda one: one.cpu_ms_per_job),
        ),
    ]
    parts = []
    top = 0
    for title, form, bars in panels:
        parts += _panel(top, title, form, bars)
        top += _HEAD + _ROW * len(bars) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" aria-label="Benchmark">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(results: Results, figure: Callable[[Round], float]) -> list[_Bar]:
    bars = []
    for name, contender in CONTENDERS.items():
        values = [figure(one) for one in results.rounds if one.contender == name]
        if values:
            bars.append(_Bar(contender.title, contender.ours, values))
    return bars


def _panel(top: int, title: str, form: str, bars: Sequence[_Bar]) -> list[str]:
    longest = _longest([max(bar.values) for bar in bars])
    scale = _BARS / longest
    parts = [f'<text class="title" x="{_LABEL}" y="{top + 26}">{escape(title)}</text>']
    y = top + _HEAD
    for bar in bars:
        middle = y + _ROW / 2 - 3
        colour, width = "ours" if bar.ours else "other", max(1.0, min(bar.median, longest) * scale)
        cut = max(bar.values) > longest
        low, high = (_LABEL + min(edge(bar.values), longest) * scale for edge in (min, max))
        parts += [
            f'<text x="{_LABEL - 10}" y="{middle + 5:.1f}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{colour}" x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_ROW - 6}" rx="2"/>',
            f'<line class="range" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>',
            f'<text x="{high + 8:.1f}" y="{middle + 5:.1f}">{form.format(bar.median)}{" (cut)" * cut}</text>',
        ]
        y += _ROW
    parts.append(f'<line class="axis" x1="{_LABEL}" y1="{top + _HEAD - 4}" x2="{_LABEL}" y2="{y}"/>')
    return parts


def _longest(values: Sequence[float]) -> float:
    """Return the value that fills the width: the highest, unless that would make all others too short to compare."""
    *_, second, highest = [1.0, *sorted(values)] if len(values) < 2 else sorted(values)
    return 1.3 * second if highest > 3 * second and len(values) > 1 else highest
