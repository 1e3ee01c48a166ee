"""How a callback reaches whoever waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.jobs.in_flight import InFlight
    from proxy.store.record import Record

__all__ = ["Delivery", "LocalDelivery"]


class Delivery(Protocol):
    """Tells whoever runs a job that its callback has come.

    That can be another process on another machine: a callback may arrive anywhere.
    """

    def deliver(self, record: Record) -> None:
        """Pass a record that has a callback to whoever runs the job. Does nothing if nobody does.

        Does not wait and does not fail: the callback is in the store, where it will be found.
        """
        ...


class LocalDelivery:
    """For jobs that this process runs itself."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    def deliver(self, record: Record) -> None:
        """See `Delivery.deliver`."""
        job = self._in_flight.by_id(record.id)
        if job is not None:
            job.recorder.callback_elsewhere(record)
            job.call_back()
