"""Coverage of some tests within a run of all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import coverage

__all__ = ["measured"]

#: By this a Python that is started while coverage is measured learns that it is to measure itself.
_HANDED_ON: Final = "COVERAGE_PROCESS_CONFIG"


@contextmanager
def measured(*, counts: bool) -> Iterator[None]:
    """Measure nothing for as long as the block lasts, here or in what is started, unless it `counts`."""
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
