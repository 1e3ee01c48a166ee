"""The order of the tests, where several processes run them."""

from __future__ import annotations

import itertools

import pytest


def test_tests_that_wait_are_not_neighbours(request: pytest.FixtureRequest) -> None:
    """As nothing else shows that the order is lost: the tests only take longer."""
    root = request.config.rootpath
    items = [(item.path.relative_to(root).parts[1:], item.get_closest_marker("long")) for item in request.session.items]
    slow = [n for n, (parts, _) in enumerate(items) if parts == ("integration", "http", "test_http1_time.py")]
    if not hasattr(request.config, "workerinput") or not slow or len(items) < 50 * len(slow):
        pytest.skip("not all tests are run, or by one process")
    assert max(after - before for before, after in itertools.pairwise(slow)) > 100
    assert all(n < min(slow) for n, (parts, long) in enumerate(items) if long or parts[0] in {"chaos", "e2e"})
