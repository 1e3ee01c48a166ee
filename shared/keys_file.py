"""The files of API_KEYS_FILE and ADMIN_KEYS_FILE: one key a line, as secret stores and containers provide it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.setting_kinds import Kind

__all__ = ["read_keys"]


def read_keys(setting: str, path: Path, kind: Kind, line_takes: str) -> tuple[Any, ...]:
    """Return the keys in the file that `setting` names; empty lines and lines that begin with # are ignored.

    `kind` parses a line as a tuple of keys, which must have exactly one; `line_takes` describes it for a person.

    Raises:
        SettingsError: the file cannot be read, or has no key, or an invalid one. No key is in the message.
    """
    name = f"{setting}: {str(path.absolute())!r}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            raise SettingsError(f"{name} is not a file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise SettingsError(f"{name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{name} is not UTF-8 (byte {exc.start + 1})") from exc
    keys: list[Any] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            (key,) = kind.parse(line)
        except ValueError:
            raise SettingsError(f"{name}, line {number}: takes {line_takes}") from None
        keys.append(key)
    if not keys:
        raise SettingsError(f"{name} has no key, and without one everybody would be let in; leave the setting empty")
    return tuple(keys)
