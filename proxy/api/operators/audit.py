"""Who did what on the admin address, and when."""

from __future__ import annotations

from proxy import log

__all__ = ["Audit"]


class Audit:
    """Notes what operators do."""

    def enter(
        self,
        *,
        what: str,
        who: str = "",
        via: str = "",
        peer: str = "",
        of: str = "",
        outcome: str = "done",
        detail: str = "",
    ) -> None:
        """Note that `who` did `what` to the job `of`, if it is about one, and what came of it: `done`, or a code."""
        log.event(
            "info",
            "done on the admin address",
            deed=what,
            who=who,
            via=via,
            peer=peer,
            job_id=of or None,
            outcome=outcome,
            detail=detail or None,
        )
