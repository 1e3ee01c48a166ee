"""Who did what on the admin address, and when: in the log, and in the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.api.operators.parameters import number, parameters, single_values
from proxy.http.asgi import send_json
from proxy.store.deeds import Deed

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.store.protocol import JobStore

__all__ = ["Audit", "AuditList"]

_LIMIT: Final = 100
_MOST: Final = 500
_LARGEST: Final = 2**63 - 1
#: How much of each text is stored.
_CHARACTERS: Final = 500


class Audit:
    """Notes what operators do."""

    def __init__(self, store: JobStore, instance: str = "") -> None:
        """`instance`: this instance's name, if there may be others."""
        self._store = store
        self._instance = instance

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
        """Note that `who` did `what`, perhaps to the job `of`, with this `outcome`: `done`, or a code."""
        log.event(
            "info",
            "done on the admin address",
            action=what,
            who=who,
            via=via,
            peer=peer,
            job_id=of or None,
            outcome=outcome,
            detail=detail or None,
        )
        self._store.enter(
            Deed(
                at=round(time.time(), 3),
                what=str(what),
                who=who,
                via=str(via),
                peer=peer,
                instance=self._instance,
                of=of[:_CHARACTERS],
                outcome=str(outcome),
                detail=detail[:_CHARACTERS],
            )
        )


class AuditList:
    """`GET /audit`: what operators did, newest first; `limit` entries, and with `before` only older ones."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with a page of the list. Raises ParameterError."""
        given = single_values(parameters(scope), ("limit", "before"))
        limit = number(given, "limit", _MOST) or _LIMIT
        deeds = await self._store.deeds(limit + 1, number(given, "before", _LARGEST))
        page = deeds[:limit]
        body = {"entries": [_shown(deed) for deed in page], "next": page[-1].n if len(deeds) > limit else None}
        await send_json(scope, send, body)


def _shown(deed: Deed) -> dict[str, object]:
    return {
        "n": deed.n,
        "at": deed.at,
        "who": deed.who,
        "via": deed.via,
        "peer": deed.peer,
        "instance": deed.instance,
        "what": deed.what,
        "of": deed.of,
        "outcome": deed.outcome,
        "detail": deed.detail,
    }
