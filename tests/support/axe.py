"""axe-core, which checks pages for accessibility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tests.support.proxy_process import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["COLOURS", "violations"]

#: The rules about colours: all that another colour scheme, which changes nothing but colours, can violate.
COLOURS: Final = ("color-contrast", "link-in-text-block")

_AXE: Final = (ROOT / "tests" / "e2e" / "pages" / "axe" / "axe.min.js").read_text(encoding="utf-8")


def violations(driver: Chrome, only: Sequence[str] = ()) -> list[Any]:
    """Return axe-core's findings: the rule, its description, and the first element that violates it.

    `only`: these rules instead of all.
    """
    options = {"resultTypes": ["violations"]} | ({"runOnly": only} if only else {})  # of what is in order: nothing
    if not driver.execute_script("return 'axe' in window"):
        driver.execute_cdp_cmd("Runtime.evaluate", {"expression": _AXE})  # the page's own policy allows no other script
    found: list[Any] = driver.execute_async_script(
        "const [options, done] = arguments;"
        "axe.run(options)"
        ".then(({violations}) => done(violations.map(({id, help, nodes}) => [id, help, nodes[0].html])))",
        options,
    )
    return found
