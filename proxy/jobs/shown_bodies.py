"""Bodies as people may see them, if the operator asked for that: secrets masked, and cut.

Only JSON of moderate size is shown: in anything else nobody can tell where a secret is.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from shared.job_server.callback_tokens import bytes_without_tokens
from shared.job_server.labels import is_secret_name, is_secret_value

__all__ = ["ShownBodies"]

_MASK: Final = "***"
_NOT_SHOWN: Final = "(not shown: it is no JSON, or has more than 64 KiB)"
#: A larger body takes longer to mask than the event loop has time for.
_MAX_BYTES: Final = 65_536


class ShownBodies:
    """Makes bodies fit to be shown."""

    def __init__(self, max_bytes: int, masked: Collection[str]) -> None:
        """`max_bytes`: of each, so much is shown; 0: nothing is. `masked`: names of members whose values never are."""
        self._max_bytes = max_bytes
        self._masked = frozenset(name.lower() for name in masked)

    def recorded(self, body: bytes, content_type: str) -> bytes | None:
        """Return what is recorded of a body; None: nothing."""
        shown = self.shown(body, content_type)
        return None if shown is None else json.dumps(shown).encode()

    def shown(self, body: bytes, content_type: str) -> dict[str, Any] | None:
        """Return a body as it is shown: its text, its size, and whether the text was cut; None: it is not shown.

        Where it cannot be masked, the text says so instead.
        """
        if not self._max_bytes:
            return None
        text = self._text(body, content_type)
        if text is None:
            return {"body": _NOT_SHOWN, "bytes": len(body), "cut": True, "content_type": content_type}
        cut = text.encode("utf-8", "backslashreplace")[: self._max_bytes].decode("utf-8", "ignore")
        return {"body": cut, "bytes": len(body), "cut": cut != text, "content_type": content_type}

    def _text(self, body: bytes, content_type: str) -> str | None:
        if len(body) > _MAX_BYTES or (content_type and "json" not in content_type):
            return None
        try:
            return json.dumps(self._value(json.loads(bytes_without_tokens(body))), ensure_ascii=False)
        except (ValueError, RecursionError):
            return None

    def _value(self, value: Any, name: str = "") -> Any:  # noqa: ANN401 - any JSON
        if name and (name.lower() in self._masked or is_secret_name(name)):
            return _MASK
        if isinstance(value, dict):
            return {name: self._value(member, name) for name, member in value.items()}
        if isinstance(value, list):
            return [self._value(member) for member in value]
        if isinstance(value, str | int | float) and not isinstance(value, bool) and is_secret_value(str(value)):
            return _MASK
        return value
