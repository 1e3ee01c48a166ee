"""Bodies as shown to operators if `RECORD_BODIES` is set: truncated, and with secrets masked.

Only JSON of moderate size is shown: in other formats, secrets cannot be found.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from typing import Any, Final

from shared.job_server.callback_tokens import bytes_without_tokens
from shared.job_server.labels import is_secret_name, is_secret_value

__all__ = ["ShownBodies"]

_MASK: Final = "***"
_NOT_SHOWN: Final = "(not shown: it is no JSON, or has more than 64 KiB)"
#: Reading and masking a larger body would block the event loop for too long.
_MAX_BYTES: Final = 65_536
#: How JSON begins that stands in a text, and may have secrets.
_JSON: Final = frozenset('{["')


class ShownBodies:
    """Prepares bodies to be shown."""

    def __init__(self, max_bytes: int, masked: Collection[str]) -> None:
        """`max_bytes`: how much of each is shown. `masked`: the members whose values are never shown."""
        self._max_bytes = max_bytes
        self._masked = frozenset(name.lower() for name in masked)

    def recorded(self, body: bytes, content_type: str) -> bytes:
        """Return the part of a body to record."""
        return json.dumps(self.shown(body, content_type)).encode()

    def shown(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Return a body as shown: its text, its size, and whether the text was truncated.

        If it cannot be masked, the text says so instead.
        """
        text = self._text(body, content_type)
        if text is None:
            return {"body": _NOT_SHOWN, "bytes": len(body), "cut": True, "content_type": content_type}
        cut = text.encode("utf-8", "backslashreplace")[: self._max_bytes].decode("utf-8", "ignore")
        return {"body": cut, "bytes": len(body), "cut": cut != text, "content_type": content_type}

    def _text(self, body: bytes, content_type: str) -> str | None:
        if len(body) > _MAX_BYTES or (content_type and "json" not in content_type):
            return None
        try:
            masked = _Masking(self._masked, self._max_bytes).of(json.loads(bytes_without_tokens(body)))
            return json.dumps(masked, ensure_ascii=False)
        except (ValueError, RecursionError):
            return None


class _Masking:
    """Masks one body, as far as it is shown: what would be cut off is skipped, to save time."""

    def __init__(self, names: Collection[str], max_bytes: int) -> None:
        self._names = names
        #: The names in this body, and whether each means a secret.
        self._known: dict[str, bool] = {}
        #: How many bytes are left, at least: the text's punctuation and escapes are not counted.
        self._room = max_bytes

    def of(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return a value with its secrets masked."""
        if isinstance(value, dict):
            return self._members(value)
        if isinstance(value, list):
            self._room -= 1
            return [self.of(member) for member in value if self._room > 0]
        if isinstance(value, str) and value.lstrip()[:1] in _JSON:
            with contextlib.suppress(ValueError):
                return json.dumps(self.of(json.loads(value)), ensure_ascii=False)
        text = str(value)
        self._room -= len(text)
        if value is None or isinstance(value, bool) or not is_secret_value(text):
            return value
        self._room += len(text)
        return self._mask()

    def _members(self, members: dict[str, Any]) -> dict[str, Any]:
        self._room -= 1
        found: dict[str, Any] = {}
        for name, member in members.items():
            if self._room <= 0:
                break
            self._room -= len(name)
            found[name] = self._mask() if self._is_secret(name) else self.of(member)
        return found

    def _mask(self) -> str:
        self._room -= len(_MASK)
        return _MASK

    def _is_secret(self, name: str) -> bool:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = name.lower() in self._names or is_secret_name(name)
        return known
