"""Tests that share an expensive fixture run in one process (`xdist_group`); otherwise each process would create it."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_known_to_whoever_shares_out_the_tests(request: pytest.FixtureRequest) -> None:
    """By the test's id, which the plugin changes; another version of pytest may not allow that."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("all tests run in one process")
    assert request.node.nodeid.endswith("@groups")
