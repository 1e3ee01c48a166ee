"""The version: the same as the newest release in CHANGELOG.md; a test makes sure."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.9.0"
