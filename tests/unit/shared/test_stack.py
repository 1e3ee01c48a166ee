"""Positions in code, in one line without data."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from shared.stack import origin, stack


def _inner(_secret: str) -> str:
    return stack(sys._getframe())  # noqa: SLF001 - as passed to a signal handler


def test_it_names_file_line_and_function_from_the_inside_out() -> None:
    """The project's files relative to its folder, and no value of any variable."""
    first, second, *_ = _inner("hidden").split(" < ")
    assert first.startswith("tests/unit/shared/test_stack.py:")
    assert first.endswith(" _inner")
    assert second.endswith(" test_it_names_file_line_and_function_from_the_inside_out")
    assert "hidden" not in first + second


def test_a_deep_stack_is_cut() -> None:
    """The outermost frames are nearly always the same."""

    def deeper(levels: int) -> str:
        return deeper(levels - 1) if levels else stack(sys._getframe())  # noqa: SLF001 - as above

    assert len(deeper(50).split(" < ")) == 8


def _raised(act: Callable[[], object]) -> str:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        act()
    return origin(caught.value)


def _fails(secret: str) -> None:
    raise ValueError(secret)


def _translates(secret: str) -> None:
    try:
        _fails(secret)
    except ValueError as exc:
        raise KeyError(secret) from exc


def _stumbles(secret: str) -> None:
    try:
        _fails(secret)
    except ValueError:
        _fails("another " + secret)


def test_an_exception_is_told_by_where_it_was_raised() -> None:
    """The innermost frame first, without its message."""
    told = _raised(lambda: _fails("hidden"))
    assert told.startswith("tests/unit/shared/test_stack.py:")
    assert " _fails < tests/unit/shared/test_stack.py:" in told
    assert "hidden" not in told


def test_what_led_to_an_exception_is_told_as_well() -> None:
    """With type and place: its cause, or the exception that was being handled."""
    first, cause = _raised(lambda: _translates("hidden")).split("; ")
    assert " _translates < " in first
    assert cause.startswith("caused by ValueError at tests/unit/shared/test_stack.py:")
    assert " _fails < " in cause
    assert "; while handling ValueError at " in _raised(lambda: _stumbles("hidden"))


def test_what_was_left_out_on_purpose_is_left_out() -> None:
    """`raise … from None` means that the context explains nothing."""

    def act() -> None:
        try:
            _fails("hidden")
        except ValueError:
            raise KeyError from None

    assert ";" not in _raised(act)


def test_the_exceptions_of_a_group_are_told() -> None:
    """A group itself says nothing."""

    async def act() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(_fails, "hidden"))

    assert "; with ValueError at tests/unit/shared/test_stack.py:" in _raised(lambda: asyncio.run(act()))


def test_a_circle_of_causes_ends() -> None:
    """And so does a long chain."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert origin(first) == "nowhere; caused by KeyError at nowhere"
    last: BaseException = ValueError()
    for _ in range(100):
        last, last.__cause__ = KeyError(), last
    assert origin(last).count("caused by") <= 4
