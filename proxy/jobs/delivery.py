"""How a callback reaches the process that waits for it: this one, if there are no others (`InFlight`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from shared.lifecycle import Submitted

if TYPE_CHECKING:
    from proxy.jobs.in_flight import InFlight
    from proxy.store.protocol import Peers
    from proxy.store.record import Record

__all__ = ["Delivery", "SharedDelivery"]


class Delivery(Protocol):
    """Notifies the runner of a job about its callback, or about anything else that others recorded about it.

    The runner may be in another process on another machine: a callback may arrive anywhere.
    """

    def deliver(self, record: Record) -> None:
        """Pass a record to the runner of the job. No-op if there is none.

        Does not wait and does not fail: the callback is in the store, where it will be found.
        """
        ...


class SharedDelivery:
    """For jobs of this instance, and of others that share its store."""

    def __init__(self, in_flight: InFlight, peers: Peers) -> None:
        self._in_flight = in_flight
        self._peers = peers

    def deliver(self, record: Record) -> None:
        """See `Delivery.deliver`. Another instance that misses the notice still finds the record."""
        self._in_flight.deliver(record)
        to_all = _is_proven(record)
        if to_all or {record.owner, record.origin} - {self._peers.instance, ""}:
            self._peers.tell(record, to_all=to_all)


def _is_proven(record: Record) -> bool:
    """Return whether a callback may have proved that a failed job was submitted: any instance may say otherwise."""
    if record.failure is None or record.submitted is not Submitted.YES:
        return False
    return record.callback is None or record.failure.submitted is not Submitted.YES
