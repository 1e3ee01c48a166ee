"""The charts of docs/performance.md: plain SVG, readable on light and on dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from bench.contenders.table import CONTENDERS
from bench.measures import Results, Round

__all__ = ["draw", "draw_growth"]

_WIDTH: Final = 860
_LABEL: Final = 330
_BARS: Final = 400
_ROW: Final = 30
_HEAD: Final = 44
_PLOT_WIDTH: Final = 280
_PLOT_HEIGHT: Final = 220
_STYLE: Final = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .ours { fill: #0969da; }
  .other { fill: #8c959f; }
  .range { stroke: #1f2328; stroke-width: 1.5; }
  .axis { stroke: #8c959f; }
  .line { stroke: #0969da; stroke-width: 2; fill: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #4493f8; }
    .other { fill: #6e7681; }
    .range { stroke: #e6edf3; }
    .line { stroke: #4493f8; }
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
    """Return the chart: jobs per second and CPU per job, a bar and its range over the rounds for each contender."""
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
    return _svg(_WIDTH, top, "Benchmark", parts)


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n'
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
    """Return the value that fills the width: the highest one, unless all others would be too short to compare."""
    *_, second, highest = [1.0, *sorted(values)] if len(values) < 2 else sorted(values)
    return 1.3 * second if highest > 3 * second and len(values) > 1 else highest


def draw_growth(results: Results) -> str:
    """Return the chart of how the cost grows: with the jobs in flight (above), and with the instances (below)."""
    flights, instances = results.in_flight, results.instances
    in_flight = [f"{one.jobs:,}" for one in flights]
    counts = [str(one.instances) for one in instances]
    rows = [
        (
            "in flight",
            [
                _Curve("jobs/s", in_flight, [one.jobs_per_s for one in flights]),
                _Curve("CPU ms a job", in_flight, [one.cpu_ms_per_job for one in flights]),
                _Curve("MB a job", in_flight, [one.bytes_per_job / 1e6 for one in flights]),
                _Curve("loop lag p99, ms", in_flight, [one.loop_p99_ms for one in flights]),
            ],
        ),
        (
            "instances",
            [
                _Curve("jobs/s in all", counts, [one.jobs_per_s for one in instances]),
                _Curve(
                    "CPU ms a job, database too",
                    counts,
                    [one.cpu_ms_per_job + one.database_cpu_ms_per_job for one in instances],
                ),
                _Curve("MB an instance", counts, [one.bytes_per_instance / 1e6 for one in instances]),
                _Curve("loop lag p99, ms", counts, [one.loop_p99_ms for one in instances]),
            ],
        ),
    ]
    parts = []
    for row, (below, curves) in enumerate(rows):
        for column, curve in enumerate(curves):
            parts += _plot(column * _PLOT_WIDTH, row * _PLOT_HEIGHT, curve, below)
    return _svg(4 * _PLOT_WIDTH, 2 * _PLOT_HEIGHT, "How cost grows", parts)


@dataclass(frozen=True, slots=True)
class _Curve:
    title: str
    #: The label below each point, and its value.
    names: Sequence[str]
    values: Sequence[float]


def _plot(left: float, top: float, curve: _Curve, below: str) -> list[str]:
    """Draw one curve from 0 on, each point with its value; the points are equidistant."""
    bottom, height = top + _PLOT_HEIGHT - 46, _PLOT_HEIGHT - 104
    begin, end = left + 16, left + _PLOT_WIDTH - 16
    parts = [
        f'<text class="title" x="{begin:.0f}" y="{top + 22:.0f}">{escape(curve.title)}</text>',
        f'<line class="axis" x1="{begin:.0f}" y1="{bottom:.0f}" x2="{end:.0f}" y2="{bottom:.0f}"/>',
        f'<text x="{left + _PLOT_WIDTH / 2:.0f}" y="{bottom + 38:.0f}" text-anchor="middle">{escape(below)}</text>',
    ]
    step = (_PLOT_WIDTH - 80) / max(1, len(curve.values) - 1)
    highest = max(curve.values, default=0) or 1.0
    points = [
        (left + 40 + number * step, bottom - value / highest * height) for number, value in enumerate(curve.values)
    ]
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    for (x, y), name, value in zip(points, curve.names, curve.values, strict=True):
        parts += [
            f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
            f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{_short(value)}</text>',
            f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(name)}</text>',
        ]
    return parts


def _short(value: float) -> str:
    """Return the value with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
