"""The progress bar: live on a terminal, one final line otherwise."""

import sys
import time
from types import TracebackType
from typing import Never, Self

from tqdm import tqdm

_FORMAT = "{n_fmt} / {total_fmt} [{bar:42}] {percentage:.2f} % {elapsed_s:.0f}s"
_BAR = " ="


class Progress:
    """Shows a person the number of finished jobs.

    It draws on standard output if that is a terminal. With `quiet`, used when a program reads standard output, it draws
    on standard error if that is a terminal, and writes no final line.
    """

    def __init__(self, jobs: int, *, quiet: bool = False) -> None:
        self.finished = 0
        self._jobs = jobs
        self._quiet = quiet
        self._started = time.monotonic()
        # Without this tqdm starts a thread to redraw slow bars.
        tqdm.monitor_interval = 0
        stream = sys.stderr if quiet else sys.stdout
        self._bar: tqdm[Never] | None = None
        if stream.isatty():
            self._bar = tqdm(total=jobs, file=stream, bar_format=_FORMAT, ascii=_BAR, mininterval=0.05)

    def advance(self) -> None:
        """One more job is finished."""
        self.finished += 1
        if self._bar is not None:
            self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not self._quiet:
            print(self._line())

    def _line(self) -> str:
        elapsed_s = time.monotonic() - self._started
        return tqdm.format_meter(self.finished, self._jobs, elapsed_s, ascii=_BAR, bar_format=_FORMAT)
