"""Reads the records of bench.ticking: the lag of a proxy's event loop, every 5 ms."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.processes import LOGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.contenders.table import Contender

__all__ = ["Ticks", "ticking"]


@dataclass(frozen=True, slots=True)
class Ticks:
    """The file that a ticking proxy writes."""

    name: str = "lag"

    @property
    def settings(self) -> dict[str, str]:
        """The proxy's settings for it."""
        return {"LAG_FILE": str(LOGS / f"{self.name}.txt")}

    def within(self, spans: Iterable[tuple[float, float]]) -> Sequence[float]:
        """Return the lags, in ms, of timers that were due within any of the spans of monotonic times."""
        lines = (LOGS / f"{self.name}.txt").read_text(encoding="ascii").splitlines()
        ticks = [(float(due), float(lag_s)) for due, lag_s in (line.split() for line in lines)]
        return [1000 * lag_s for begin, end in spans for due, lag_s in ticks if begin <= due <= end]


def ticking(contender: Contender) -> Contender:
    """Return this project's proxy with a timer that measures its event loop."""
    return replace(contender, command=(sys.executable, "-m", "bench.ticking"))
