"""The order of the tests, where several processes run them."""

from __future__ import annotations

import itertools

import pytest

from tests.support.order import mixed


@pytest.mark.parametrize(
    ("some", "others", "both"),
    [
        ("ab", "123456", "1a234b56"),
        ("abc", "12", "a1b2c"),
        ("abc", "", "abc"),
        ("", "12", "12"),
    ],
)
def test_two_lists_are_mixed_evenly_and_each_keeps_its_order(some: str, others: str, both: str) -> None:
    """Whichever is the longer one."""
    assert mixed(some, others) == list(both)


def test_tests_that_wait_are_not_neighbours(request: pytest.FixtureRequest) -> None:
    """As nothing else shows that the order is lost: the tests only take longer."""
    items = [item for item in request.session.items if not item.get_closest_marker("long")]
    folders = [item.path.relative_to(request.config.rootpath).parts[1] for item in items]
    if not hasattr(request.config, "workerinput") or not 0 < folders.count("integration") < folders.count("unit"):
        pytest.skip("not all tests are run, or by one process")
    assert ("integration", "integration") not in itertools.pairwise(folders)
