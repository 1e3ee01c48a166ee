"""axe-core, which checks pages for accessibility."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.support.proxy_process import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["violations"]

_AXE: Final = (ROOT / "tests" / "e2e" / "pages" / "axe" / "axe.min.js").read_text(encoding="utf-8")


def violations(driver: Chrome) -> list[Any]:
    """Return axe-core's findings: the rule, its description, and the first element that violates it."""
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": _AXE})  # the page's own policy allows no other script
    found: list[Any] = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run({resultTypes: ['violations']})"  # of what is in order, nothing is collected
        ".then(({violations}) => done(violations.map(({id, help, nodes}) => [id, help, nodes[0].html])))"
    )
    return found
