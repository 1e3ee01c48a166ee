"""`python -m tests.chaos.support.hasty_instance`: the real proxy, with the times that its environment says.

LEASE_S: seconds; the time between two beats keeps its proportion to it. With the ten seconds that a lease usually has,
these tests would wait for most of their time. PATIENCE_S, if there: seconds for which a database that is away is waited
for. On a busy machine its start takes longer than that usually is.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from proxy.__main__ import main
from proxy.store.postgresql import health, store
from proxy.store.postgresql.leases import Times
from tests.support.proxy_process import ProxyProcess

__all__ = ["HastyInstance"]


class HastyInstance(ProxyProcess):
    """That program in a process of its own."""

    PROGRAM = (sys.executable, "-m", "tests.chaos.support.hasty_instance")


if __name__ == "__main__":
    lease_s = float(os.environ["LEASE_S"])
    usual = Times()
    room: Any = store
    room.Times = functools.partial(Times, lease_s=lease_s, beat_s=usual.beat_s * lease_s / usual.lease_s)
    if "PATIENCE_S" in os.environ:
        patience: Any = health
        patience.PATIENCE_S = room.PATIENCE_S = room._CALLBACK_PATIENCE_S = float(os.environ["PATIENCE_S"])  # noqa: SLF001
    sys.exit(main())
