"""The instances, for operators: how many are alive, and what they and this one did for each other's jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.jobs.dispatcher import Dispatcher
    from proxy.jobs.elsewhere import Elsewhere
    from proxy.store.protocol import JobStore

__all__ = ["InstancesView"]


class InstancesView:
    """The cluster at a glance, as this instance sees it."""

    def __init__(self, store: JobStore, dispatcher: Dispatcher, elsewhere: Elsewhere) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._elsewhere = elsewhere

    def shown(self) -> dict[str, object]:
        """Return the figures of one snapshot: the store's view of the leases, and counts since the start."""
        of_store = {reading.name: reading.value for reading in self._store.readings()}
        return {
            "live": int(of_store.get("cluster_instances", 0)),
            "slowest_s": round(of_store.get("cluster_slowest_lease_seconds", 0.0), 1),
            "own_s": round(of_store.get("cluster_beat_age_seconds", 0.0), 1),
            "taken_over": self._dispatcher.taken_over,
            "callbacks": self._elsewhere.callbacks,
            "fenced": self._elsewhere.fenced,
        }
