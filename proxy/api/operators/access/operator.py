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
    """How an operator was authenticated."""

    KEY = "key"
    SESSION = "session"
    HEADER = "header"
    #: Not at all: no keys are set, so everybody who reaches the address is admitted.
    ADDRESS = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Somebody who may use the admin address."""

    #: The name of their key, or their user name; empty: no authentication is required.
    name: str
    role: Role
    via: Via
    session: Session | None = None
    #: The hash of the key that they sent; empty: they did not authenticate by a key.
    key: bytes = field(default=b"", repr=False)

    @property
    def words(self) -> str:
        """What sentences call them."""
        return f"the operator {self.name}" if self.name else "an operator"


NOBODY_IN_PARTICULAR: Final = Operator(name="", role=Role.ACT, via=Via.ADDRESS)


def operator_of(scope: Scope) -> Operator:
    """Return the operator who sent an admitted request."""
    operator: Operator = scope["operator"]
    return operator
