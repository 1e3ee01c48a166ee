"""Quarantine: a test that is known to be flaky is skipped, visibly, until it is fixed.

    @pytest.mark.quarantine(date="2026-01-31", reason="the port is taken by the kernel now and then")

Each run lists such tests among the skipped ones. `make test ARGS="-m quarantine"` runs them.
"""

from __future__ import annotations

from datetime import date

import pytest

__all__ = ["hold_back"]


def hold_back(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests in quarantine, unless they were selected.

    Raises:
        pytest.UsageError: a mark has no date or no reason.
    """
    asked_for = "quarantine" in str(config.getoption("markexpr"))
    for item in items:
        for mark in item.iter_markers("quarantine"):
            since = _since(item, mark)
            if not asked_for:
                item.add_marker(pytest.mark.skip(reason=f"in quarantine since {since}: {mark.kwargs['reason']}"))


def _since(item: pytest.Item, mark: pytest.Mark) -> date:
    if mark.args or mark.kwargs.keys() != {"date", "reason"} or not mark.kwargs["reason"].strip():
        raise pytest.UsageError(f"{item.nodeid}: a quarantine needs date= and reason=")
    try:
        return date.fromisoformat(mark.kwargs["date"])
    except ValueError as exc:
        raise pytest.UsageError(f"{item.nodeid}: the date of a quarantine is written YYYY-MM-DD") from exc
