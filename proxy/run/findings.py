"""What a check of `--check` finds: a verdict, and words about it for a person."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Finding", "Verdict"]


class Verdict(StrEnum):
    """How one check ended."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "FAIL"


Finding = tuple[Verdict, str]
