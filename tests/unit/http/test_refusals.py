"""Refused requests are logged, and a flood of them does not flood the log."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import log
from proxy.http import problems
from proxy.http.refusals import Refusals
from shared.errors import Code


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The log's lines."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda level, what, **more: found.append({"level": level, "what": what, **more}))
    return found


def test_a_refused_request_leaves_a_line(lines: list[dict[str, Any]]) -> None:
    """Who, what and why."""
    problem = problems.make(Code.UNAUTHORIZED, "send a key")

    Refusals().note(problem, method="POST", route="/queueJob", peer="192.0.2.1")

    (line,) = lines
    assert (line["level"], line["what"], line["code"], line["status"]) == (
        "info",
        "request refused",
        "unauthorized",
        401,
    )
    assert (line["detail"], line["method"], line["route"], line["peer"]) == (
        "send a key", "POST", "/queueJob", "192.0.2.1",
    )  # fmt: skip


def test_of_a_flood_some_are_listed_and_the_others_are_counted(lines: list[dict[str, Any]]) -> None:
    """Twenty per second."""
    now = 100.0
    refusals = Refusals(lambda: now)
    problem = problems.make(Code.OVERLOADED, "too many")

    for _ in range(500):
        refusals.note(problem, method="POST", route="/queueJob", peer="")
    now = 101.5
    refusals.note(problem, method="POST", route="/queueJob", peer="")

    assert [line["what"] for line in lines].count("request refused") == 21
    assert [line["unlisted"] for line in lines if "unlisted" in line] == [480]
