"""Writes the figures of a run into docs/performance.md, between its markers.

The page shows what a reader compares; the tables of the single parts are printed, and are in build/bench/results.json.
"""

from __future__ import annotations

from typing import Final

from bench.measures import Results
from bench.tables import sections

__all__ = ["SHOWN", "fill"]

SHOWN: Final = ("targets", "machine", "throughput", "in-flight", "instances", "reckoned")


def fill(text: str, results: Results) -> str:
    """Return `text` with the content of each of its sections replaced.

    Raises:
        ValueError: a section has no markers.
    """
    texts = sections(results)
    for name in SHOWN:
        content = texts[name]
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, also_found, after = rest.partition(end)
        if not found or not also_found:
            raise ValueError(f"no place for {name!r}: the markers {begin.strip()} and {end} are missing")
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    return text
