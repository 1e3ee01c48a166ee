"""Where code stands, in one line without data."""

from __future__ import annotations

import sys

from shared.stack import stack


def _inner(_secret: str) -> str:
    return stack(sys._getframe())  # noqa: SLF001 - as a signal handler is given it


def test_it_names_file_line_and_function_from_the_inside_out() -> None:
    """Files of the project from its folder on, and no value of any variable."""
    first, second, *_ = _inner("hidden").split(" < ")
    assert first.startswith("tests/unit/shared/test_stack.py:")
    assert first.endswith(" _inner")
    assert second.endswith(" test_it_names_file_line_and_function_from_the_inside_out")
    assert "hidden" not in first + second


def test_a_deep_stack_is_cut() -> None:
    """The outermost frames are the same in nearly every case."""

    def deeper(levels: int) -> str:
        return deeper(levels - 1) if levels else stack(sys._getframe())  # noqa: SLF001 - as above

    assert len(deeper(50).split(" < ")) == 8
