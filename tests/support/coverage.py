"""Measures coverage of some tests within a run of all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import coverage

__all__ = ["measured"]

#: The variable by which child processes learn that they have to measure their coverage.
_HANDED_ON: Final = "COVERAGE_PROCESS_CONFIG"


@contextmanager
def measured(*, counts: bool) -> Iterator[None]:
    """Measure nothing within the block, here or in child processes, unless it `counts`."""
    measuring = coverage.Coverage.current()
    if counts or measuring is None:
        yield
        return
    handed_on = os.environ.pop(_HANDED_ON, None)
    measuring.stop()
    try:
        yield
    finally:
        measuring.start()
        if handed_on is not None:
            os.environ[_HANDED_ON] = handed_on
