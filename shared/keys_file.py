"""The file of API_KEYS_FILE: one key a line, as secret stores and container runtimes provide it."""

from __future__ import annotations

from pathlib import Path

from shared import setting_kinds as kinds
from shared.errors import SettingsError

__all__ = ["read_keys"]


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in the file; lines that are empty or begin with # are none.

    Raises:
        SettingsError: the file cannot be read, or has no key, or one that does not fit. No key is in the message.
    """
    name = f"API_KEYS_FILE: {str(path)!r}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise SettingsError(f"{name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{name} is not UTF-8 (byte {exc.start + 1})") from exc
    keys: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            (key,) = kinds.KEYS.parse(line)
        except ValueError:
            raise SettingsError(f"{name}, line {number}: takes one key of printable ASCII without spaces") from None
        keys.append(key)
    if not keys:
        raise SettingsError(f"{name} has no key, and without one everybody would be let in; leave the setting empty")
    return tuple(keys)
