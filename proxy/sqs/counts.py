"""Counters of messages, for the metrics and the dashboard."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

__all__ = ["Counts", "Fate"]


class Fate(StrEnum):
    """What happened to a delivery of a message; several values may apply to one delivery."""

    #: It was taken from the queue.
    RECEIVED = "received"
    #: It began a job.
    BEGUN = "begun"
    #: Its job existed already: in flight, or finished.
    JOINED = "joined"
    REPLIED = "replied"
    DELETED = "deleted"
    #: It will be delivered again.
    GIVEN_BACK = "given-back"
    #: It cannot be a job, or may have been one that was forgotten: it was sent to the dead-letter queue.
    DEAD = "dead"
    #: Its visibility timeout was over before it was done; the service delivers it again.
    OVERDUE = "overdue"


class Counts:
    """The figures of one front end."""

    def __init__(self) -> None:
        self.by_fate: Counter[Fate] = Counter()
        #: Calls for messages that succeeded, and that failed.
        self.receives = 0
        self.receive_errors = 0
        #: Deliveries in progress.
        self.in_hand = 0
        #: The age of the oldest message of the last delivery, in seconds; 0 when the queue was empty.
        self.oldest_s = 0.0
        #: Why the queue cannot be read now; empty if all is well.
        self.trouble = ""

    def shown(self) -> dict[str, object]:
        """Return the figures for the dashboard."""
        by_fate = {str(fate): self.by_fate[fate] for fate in Fate if self.by_fate[fate]}
        return {
            "messages": by_fate,
            "in_hand": self.in_hand,
            "oldest_s": round(self.oldest_s, 1),
            "trouble": self.trouble,
        }
