"""The profile that the benchmark uses, with or without kept connections."""

from __future__ import annotations

import re
from pathlib import Path

from bench.load import LoadError
from bench.processes import ROOT

__all__ = ["profile_with"]


def profile_with(folder: Path, keep_alive: str) -> Path:
    """Write the shipped profile with this value of `keep_alive`; return the file. Raises LoadError if it has none."""
    text = (ROOT / "profiles" / "spreedly.toml").read_text(encoding="utf-8")
    text, count = re.subn(r"(?m)^keep_alive = \w+", f"keep_alive = {keep_alive}", text)
    if count != 1:
        raise LoadError("profiles/spreedly.toml does not say once whether connections are kept")
    file = folder / f"{keep_alive}.toml"
    file.write_text(text, encoding="utf-8")
    return file
