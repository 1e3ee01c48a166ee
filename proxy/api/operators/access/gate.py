"""Authenticates requests to the admin address: by a key, by a session, or by a gateway's header."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from starlette.requests import cookie_parser

from proxy.api import bearer
from proxy.api.operators.access.attempts import Attempts
from proxy.api.operators.access.operator import NOBODY_IN_PARTICULAR, Operator, Via
from proxy.api.operators.access.sessions import Sessions
from proxy.http.asgi import headers_of, peer_of
from proxy.http.forwarded import comes_from
from shared.errors import Code, RequestError
from shared.setting_kinds import Role

if TYPE_CHECKING:
    from starlette.types import Scope

    from proxy.api.operators.audit import Audit
    from shared.setting_kinds import AdminKey

__all__ = ["Gate", "GatewayUsers", "cookie_name"]

_LONGEST_NAME: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayUsers:
    """Operators that a gateway has logged in and names in a header."""

    #: In lower case.
    header: str
    #: The networks of trusted gateways.
    peers: Collection[IPv4Network | IPv6Network]
    #: The users who may act; `*`: all.
    acting: Collection[str] = field(default=())

    def find(self, scope: Scope) -> Operator | None:
        """Return the operator that a gateway names; None: no gateway does. Raises RequestError if the name is empty."""
        if not comes_from(scope, self.peers):
            return None
        values = headers_of(scope, self.header.encode())
        if not values:
            return None
        name = _name_in(values)
        role = Role.ACT if "*" in self.acting or name in self.acting else Role.LOOK
        return Operator(name=name, role=role, via=Via.HEADER)


class Gate:
    """Admits operators; if neither keys nor a gateway's users are set, everybody who reaches the address."""

    def __init__(self, keys: Sequence[AdminKey], users: GatewayUsers | None, audit: Audit) -> None:
        self._users = users
        self._audit = audit
        self._attempts = Attempts()
        self._sessions = Sessions()
        self._known: list[bytes] = []
        self._holders: dict[bytes, Operator] = {}
        self.replace(keys)

    def replace(self, keys: Sequence[AdminKey]) -> None:
        """Admit only these keys, from the next request on; sessions of other keys end."""
        self._known = [bearer.hash_of(one.key) for one in keys]
        self._holders = {
            hashed: Operator(name=one.name, role=one.role, via=Via.KEY, key=hashed)
            for hashed, one in zip(self._known, keys, strict=True)
        }
        self._sessions.keep_only(self._holders.keys())

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return len(self._known)

    @property
    def is_guarded(self) -> bool:
        """Whether operators have to authenticate."""
        return bool(self._known) or self._users is not None

    def who(self, scope: Scope) -> Operator | None:
        """Return the operator who sends a request; None: it does not authenticate.

        Raises:
            RequestError: its key is unknown, or its user name is invalid.
            AdmissionError: too many wrong keys came from its address.
        """
        if not self.is_guarded:
            return NOBODY_IN_PARTICULAR
        given = bearer.sent_with(scope)
        if given is not None:
            return self._holders[self._known_key(scope, given)]
        user = self._users.find(scope) if self._users is not None else None
        return user or self._of_session(scope)

    def still_knows(self, operator: Operator) -> bool:
        """Return whether an operator's session has not ended, and their key has not been withdrawn."""
        if operator.session is not None:
            return not operator.session.ended
        return not operator.key or operator in self._holders.values()

    def log_in(self, scope: Scope, key: str) -> tuple[Operator, str]:
        """Start a session for the holder of `key`; return the operator, and the session's token.

        Raises:
            RequestError: the key is unknown.
            AdmissionError: as for `who`.
        """
        hashed = self._known_key(scope, bearer.hash_of(key))
        self.log_out(scope)  # end the browser's previous session
        return self._holders[hashed], self._sessions.begin(hashed)

    def log_out(self, scope: Scope) -> Operator | None:
        """End the session of a request, if it has one; return whose it was."""
        operator = self._of_session(scope)
        if operator is not None:
            self._sessions.end(_token(scope))
        return operator

    def _known_key(self, scope: Scope, given: bytes) -> bytes:
        peer = peer_of(scope)
        self._attempts.check(peer)
        found = bearer.find(given, self._known)
        if found is None:
            self._attempts.failed(peer)
            self._audit.enter(what="failed log-in", peer=peer, outcome=Code.UNAUTHORIZED)
            raise RequestError(Code.UNAUTHORIZED, "this key is not one of ADMIN_KEYS")
        return self._known[found]

    def _of_session(self, scope: Scope) -> Operator | None:
        session = self._sessions.find(_token(scope))
        holder = self._holders.get(session.key) if session is not None else None
        if holder is None:
            return None
        return Operator(name=holder.name, role=holder.role, via=Via.SESSION, session=session)


def cookie_name(scope: Scope) -> str:
    """Return the name of the session's cookie. It has the port, because browsers share cookies between ports."""
    server = scope.get("server") or ("", 0)
    return f"async_job_proxy_{server[1]}"


def _token(scope: Scope) -> str:
    return cookie_parser("; ".join(headers_of(scope, b"cookie"))).get(cookie_name(scope), "")


def _name_in(values: Sequence[str]) -> str:
    """Return the name in the header. Raises RequestError unless it was sent once and is valid."""
    try:
        name = values[0].strip().encode("latin-1").decode()
    except UnicodeDecodeError:
        name = ""
    if len(values) > 1 or not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise RequestError(Code.UNAUTHORIZED, "the gateway does not name one operator")
    return name
