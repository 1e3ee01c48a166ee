"""The file `.env`: read by decouple, after checking that there is no line that decouple would skip or misread.

A line without effect is a setting that somebody believes to be in force: `API_KEY=` instead of `API_KEYS=` leaves the
proxy open to everybody. So each line must be empty, a comment, or one of our settings, each at most once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from decouple import RepositoryEnv

from shared.spelling import nearest

__all__ = ["read"]

#: Some editors begin a file with a byte order mark, which is not part of the first name.
_ENCODING: Final = "utf-8-sig"
_EXPORT: Final = re.compile(r"\Aexport\s+")
_WORD: Final = re.compile(r"[\w-]+")


def read(path: Path, known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the file's settings, and one line for each problem. No file: no settings.

    `known`: the names of all settings. The lines never contain a value, because it may be a secret.
    """
    if path.is_fifo():
        return {}, [f"{path.name}: it is a pipe; use a file"]
    try:
        text = path.read_bytes().decode(_ENCODING)
        # Only the file's lines: decouple's `Config` would prefer the process's environment.
        found = RepositoryEnv(str(path), encoding=_ENCODING).data
    except FileNotFoundError:
        return {}, []
    except UnicodeDecodeError as exc:
        return {}, [f"{path.name}: it is not UTF-8 (byte {exc.start + 1}); save it as UTF-8"]
    except OSError as exc:
        return {}, [f"{path.name}: it cannot be read: {exc.strerror}; use a file that the proxy's user can read"]
    lines = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
    troubles = [f"{path.name}, line {number}: {words}" for number, words in _troubles(lines, known)]
    return {_name(key): value for key, value in found.items()}, troubles


def _troubles(lines: Iterator[tuple[int, str]], known: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of each invalid line, and the reason."""
    seen: dict[str, int] = {}
    for number, raw in lines:
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, _ = line.partition("=")
        name = _name(key)
        if not equals or name not in known:
            yield number, _advice(name, known, is_assignment=bool(equals))
        elif name in seen:
            yield number, f"{name} is already set in line {seen[name]}; remove one of the two"
        seen.setdefault(name, number)


def _name(key: str) -> str:
    """Return the name that is set, without the `export` of shells."""
    return _EXPORT.sub("", key.strip(), count=1)


def _advice(name: str, known: Collection[str], *, is_assignment: bool) -> str:
    words = _WORD.findall(name)
    meant = next(filter(None, (nearest(word, known) for word in words)), "")
    if not is_assignment:
        return f"takes NAME=value; write {meant}=..." if meant else "takes NAME=value, or # and a comment"
    if meant:
        return f"{' '.join(words)} is not a setting; did you mean {meant}?"
    return (
        f"{' '.join(words) or 'this'} is not a setting, so the line has no effect; "
        "remove it (variables of other programs belong in the environment)"
    )
