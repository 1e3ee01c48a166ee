"""`python -m tests.chaos.support.hasty_instance`: the real proxy, with times from its environment.

LEASE_S: seconds; the heartbeat's interval keeps its ratio to it. With the usual lease of ten seconds, these tests would
mostly wait. PATIENCE_S, optional: how long an unavailable database is waited for, in seconds. On a busy machine, the
database's start takes longer than the default.
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
    """That program in its own process."""

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
