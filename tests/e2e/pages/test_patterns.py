"""The patterns of very many jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By

from tests.support.browser import errors_in_console, eventually_shown, run
from tests.support.operators import MARKS, Operated, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS


@pytest.fixture
def page(driver: Chrome, operated: Operated) -> Iterator[Chrome]:
    """The page with the last day's data; whatever a test does with it, it reports no error."""
    driver.get(f"{operated.admin}/patterns.html")
    eventually_shown(lambda: "Code" in text(driver, "failures"), 60)
    yield driver
    assert errors_in_console(driver) == []


def test_failures_are_grouped_and_lead_to_their_jobs(page: Chrome) -> None:
    """By code, label and message, in which all numbers are equal; a group's links list its jobs, or all of its code."""
    groups = text(page, "failures")
    assert all(code in groups for code in ("worker-died", "deadline-exceeded", "job-rejected"))
    assert "it took too long: # ms" in groups
    group = page.find_element(By.CSS_SELECTOR, "#failures tbody tr")
    jobs, code, _, label, *_ = [cell.text for cell in group.find_elements(By.TAG_NAME, "td")]
    group.find_element(By.LINK_TEXT, "like this").click()
    # Of very many jobs, not all are counted.
    eventually_shown(lambda: text(page, "total") == f"{jobs} jobs" or "or more" in text(page, "total"), 60)
    shown = (
        "const texts = ({ children: cells }) => cells[2].textContent + cells[5].textContent;"
        "return [...new Set([...document.querySelectorAll('#rows tr')].map(texts))]"
    )
    assert run(page, shown) == [f"✕ {code}account={label}"]
    assert f"code={code}&" in page.current_url
    assert {"q=it+took+too+long:", f"label.account={label}"} <= set(page.current_url.split("&"))
    page.back()
    eventually_shown(lambda: "Code" in text(page, "failures"), 60)
    page.find_element(By.LINK_TEXT, "all of this code").click()
    eventually_shown(lambda: run(page, "return document.querySelectorAll('#rows tr').length") > 9)
    outcomes = (
        "return [...new Set([...document.querySelectorAll('#rows td:nth-child(3)')].map((it) => it.textContent))]"
    )
    assert len(run(page, outcomes)) == 1


def test_the_list_of_these_jobs_is_of_the_same_time(page: Chrome) -> None:
    """Patterns are of the last day by default, and a list is of any time."""
    page.find_element(By.LINK_TEXT, "These jobs as a list").click()
    eventually_shown(lambda: page.current_url.endswith("/jobs.html?since=1d"))
    page.back()
    page.get(f"{page.current_url}?until=2090-01-02T00:00:00Z")
    href = "return document.getElementById('list').href"
    eventually_shown(lambda: run(page, href).endswith("?until=2090-01-02T00:00:00Z&since=2090-01-01T00:00:00Z"))


def test_the_heat_map_is_a_table_whose_cells_differ_in_lightness(page: Chrome) -> None:
    """Its numbers can be read, and seen without colours: the higher, the further from the background."""
    cells = (
        "return [...document.querySelectorAll('#latency td')].filter((it) => it.textContent).map((it) =>"
        " [Number(it.title.replace(/\\D/g, '')), it.className])"
    )
    found = run(page, cells)
    assert len(found) > 5
    assert all(a[1] <= b[1] for a, b in zip(sorted(found), sorted(found)[1:], strict=False))
    assert len({name for _, name in found}) > 1


def test_charts_have_their_numbers_beside_them(page: Chrome) -> None:
    """Jobs over time, and each phase: as tables that a screen reader can read."""
    run(page, "for (const each of document.querySelectorAll('details')) each.open = true")
    assert "Of these failed" in text(page, "jobs")
    assert "total" in text(page, "phases")
    assert int(run(page, "return document.querySelectorAll('#slowest tbody tr').length")) == 10
