"""One browser and one proxy for all tests of the operators' pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import browser
from tests.support.operators import Operated

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The browser."""
    with browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture(scope="session")
def operated() -> Iterator[Operated]:
    """The proxy."""
    with Operated() as proxy:
        yield proxy


@pytest.fixture
def window(driver: Chrome) -> Iterator[None]:
    """Restore the usual window size and colour scheme after the test."""
    yield
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
