"""The operator behind a request, as the routes of the admin address see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from shared.setting_kinds import Role

if TYPE_CHECKING:
    from starlette.types import Scope

    from proxy.api.operators.access.sessions import Session

__all__ = ["NOBODY_IN_PARTICULAR", "Operator", "Via", "operator_of"]


class Via(StrEnum):
    """How somebody is known."""

    KEY = "key"
    SESSION = "session"
    HEADER = "header"
    #: Not at all: they reach the address, and no keys are set.
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Somebody who may use the admin address."""

    #: The name of their key, or their user name; empty: nobody asks who they are.
    name: str
    role: Role
    via: Via
    session: Session | None = None
    #: The hash of the key that they sent; empty: they are known otherwise.
    key: bytes = field(default=b"", repr=False)

    @property
    def words(self) -> str:
        """How sentences call them."""
        return f"the operator {self.name}" if self.name else "an operator"


NOBODY_IN_PARTICULAR: Final = Operator(name="", role=Role.ACT, via=Via.ADDRESS)


def operator_of(scope: Scope) -> Operator:
    """Return who sends a request that was let in."""
    operator: Operator = scope["operator"]
    return operator
