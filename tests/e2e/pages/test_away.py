"""What the pages say while the proxy is unavailable, and after its restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.browser import eventually_shown
from tests.support.large_journal import HOSTILE_ID
from tests.support.operators import MARKS, Operated, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS


@pytest.mark.parametrize("page", ["", f"job.html?id={HOSTILE_ID}"], ids=["now", "job"])
def test_a_restart_is_said_and_got_over(driver: Chrome, operated: Operated, page: str) -> None:
    """On a page that is fed and on one that polls: it says that the proxy is away, then restarted, and goes on."""
    driver.get(f"{operated.admin}/{page}")
    eventually_shown(lambda: text(driver, "status") == "live")
    operated.end()
    eventually_shown(lambda: text(driver, "status") == "disconnected")
    assert "does not answer" in text(driver, "notice")
    operated.start()
    eventually_shown(lambda: text(driver, "status") == "live", 60)
    assert "was restarted" in text(driver, "notice")
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that nobody answered stands there, as it should
