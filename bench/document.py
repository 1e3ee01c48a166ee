"""Puts the figures of a run into docs/performance.md, between the markers that are there for them."""

from __future__ import annotations

from bench.measures import Results
from bench.tables import sections

__all__ = ["fill"]


def fill(text: str, results: Results) -> str:
    """Return `text` with the content of every marked section replaced.

    Raises:
        ValueError: a section has no markers.
    """
    for name, content in sections(results).items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, also_found, after = rest.partition(end)
        if not found or not also_found:
            raise ValueError(f"no place for {name!r}: the markers {begin.strip()} and {end} are missing")
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    return text
