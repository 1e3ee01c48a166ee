"""How the benchmark counts the CPU of a contender's processes."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.processes import cpu_s, first_thread_cpu_s, live_cpu_s

_BURNT_S = 0.2
#: It uses a known amount of CPU, whatever else the machine does; then it prints a line and waits.
_BURN = f"""
import sys, time
while time.process_time() < {_BURNT_S}: pass
print("done", flush=True)
sys.stdin.read()
"""


def test_a_process_counts_while_it_lives_and_when_it_has_ended() -> None:
    """CPU is counted while it runs and after it has ended; `live_cpu_s` only counts live threads."""
    own, before_s, live_before_s = os.getpid(), cpu_s(os.getpid()), live_cpu_s(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"done\n"
    assert first_thread_cpu_s(child.pid) > _BURNT_S / 2
    assert cpu_s(own) - before_s > _BURNT_S / 2
    assert live_cpu_s(own) - live_before_s > _BURNT_S / 2
    child.communicate()
    assert cpu_s(own) - before_s > _BURNT_S / 2
    assert cpu_s(child.pid) == 0
