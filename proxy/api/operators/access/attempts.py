"""Wrong keys: after too many from one address, no key from there is checked for a while.

Operators who have logged in are not affected, but others who share the address are. Behind a gateway, TRUSTED_PROXIES
makes the proxy see the clients' own addresses.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared.errors import AdmissionError, Code

__all__ = ["Attempts"]

#: How many wrong keys are allowed at once, and the seconds until another one is.
_AT_ONCE: Final = 10
_EVERY_S: Final = 6.0
#: How many addresses are remembered; the least recently seen one is forgotten first.
_ADDRESSES: Final = 4_096
#: For IPv6, networks of this size are counted instead of addresses, because a single client usually has one.
_IPV6_PREFIX: Final = 64


class Attempts:
    """Counts wrong keys by address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: network -> when as many wrong keys as are allowed at once will be allowed again; in order of the last one.
        self._settled_at: OrderedDict[str, float] = OrderedDict()

    def check(self, peer: str) -> None:
        """Raise AdmissionError if no further key from the address `peer` may be checked now."""
        wait_s = self._settled_at.get(_network(peer), 0.0) - self._clock() - (_AT_ONCE - 1) * _EVERY_S
        if wait_s > 0:
            raise AdmissionError(
                Code.TOO_MANY_ATTEMPTS,
                "too many wrong keys came from this address; none is looked at for a while",
                retry_after_s=math.ceil(wait_s),
            )

    def failed(self, peer: str) -> None:
        """Note that a key from the address `peer` was wrong."""
        network = _network(peer)
        self._settled_at[network] = max(self._settled_at.pop(network, 0.0), self._clock()) + _EVERY_S
        if len(self._settled_at) > _ADDRESSES:
            self._settled_at.popitem(last=False)


def _network(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    address = getattr(address, "ipv4_mapped", None) or address  # so a listener for both versions shows IPv4
    if address.version == 4:  # noqa: PLR2004 - the version of IP
        return str(address)
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
