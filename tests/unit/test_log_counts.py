"""The most frequent log lines."""

from __future__ import annotations

import signal
import threading

from proxy.log_counts import LogCounts


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_lines_of_the_last_hour_are_counted_by_words_and_level() -> None:
    """The most frequent first; older ones are forgotten."""
    clock = _Clock()
    counts = LogCounts(clock)
    counts.add("error", "old")
    clock.now = 1800.0
    for _ in range(3):
        counts.add("info", "often")
    counts.add("warning", "seldom")
    assert counts.most(10) == ([("info", "often", 3), ("error", "old", 1), ("warning", "seldom", 1)], 0)
    assert counts.most(1) == ([("info", "often", 3)], 2)
    clock.now = 3700.0
    assert counts.most(10) == ([("info", "often", 3), ("warning", "seldom", 1)], 0)
    clock.now = 100_000.0
    assert counts.most(10) == ([], 0)


def test_however_many_lines_there_are_few_are_remembered() -> None:
    """The others are counted together."""
    counts = LogCounts(_Clock())
    for number in range(10_000):
        counts.add("info", f"line {number}")
    most, others = counts.most(1000)
    assert len(most) == 200
    assert len(most) + others == 10_000


def test_no_line_of_any_thread_is_missed() -> None:
    """Several of them write at once."""
    counts = LogCounts(_Clock())

    def write() -> None:
        for _ in range(2_000):
            counts.add("info", "x")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.most(1) == ([("info", "x", 8_000)], 0)


def test_a_signals_handler_counts_lines_whatever_it_interrupts() -> None:
    """It runs in the same thread, which may hold the lock just then."""

    class Interrupting(str):
        __slots__ = ()

        def __hash__(self) -> int:
            signal.raise_signal(signal.SIGUSR1)
            return super().__hash__()

    counts = LogCounts(_Clock())
    before = signal.signal(signal.SIGUSR1, lambda *_: counts.add("warning", "a signal"))
    try:
        counts.add("info", Interrupting("x"))
        lines, others = counts.most(2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted((level, what) for level, what, _ in lines) == [("info", "x"), ("warning", "a signal")]
    assert others == 0
