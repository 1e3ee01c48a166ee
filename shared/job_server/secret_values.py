"""The values of placeholders `{env:NAME}`: from the environment, or from the file that `NAME_FILE` names there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["file_of", "secret_in", "value_of"]

#: A token or a key is much shorter.
_MAX_BYTES: Final = 65_536


def file_of(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of the file that has the value of `env:NAME`; empty: there is none."""
    variable = name.removeprefix("env:")
    return "" if environ.get(variable) else environ.get(f"{variable}_FILE", "")


def value_of(name: str, environ: Mapping[str, str]) -> str:
    """Return the value of `env:NAME`; empty: there is none. Raises OSError, UnicodeDecodeError."""
    file = file_of(name, environ)
    return secret_in(file) if file else environ.get(name.removeprefix("env:"), "")


def secret_in(path: str) -> str:
    """Return what a file contains, without the line break at its end. Raises OSError, UnicodeDecodeError."""
    if not os.path.isfile(path):  # noqa: PTH113 - a pipe or a device may never end
        raise FileNotFoundError("it is no file")
    with open(path, "rb") as file:  # noqa: PTH123 - workers load no pathlib for this
        return file.read(_MAX_BYTES).decode().rstrip("\r\n")
