"""The examples of README.md and docs/tour.md, pasted one by one: each does what the page shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from cluster.options import Options
from shared.settings import variables
from tests.support.proxy_process import ROOT, ProxyProcess

_PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "tour.md")
_JOB_ID: Final = re.compile(r"[0-9a-f]{32}")

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="the examples use curl"),
    pytest.mark.xdist_group("examples"),  # they share a proxy
]


class Example(NamedTuple):
    """A block of a page that is one command, and the block that shows its output, if there is one."""

    page: str
    command: str
    shown: str


def examples() -> Iterator[Example]:
    """Return every command that is pasted by itself: one indented line of curl or Python."""
    for page in _PAGES:
        blocks = re.findall(r"(?:^    .*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
        texts = [re.sub("^    ", "", block, flags=re.MULTILINE).strip() for block in blocks]
        for text, following in zip(texts, [*texts[1:], ""], strict=True):
            if re.fullmatch(r"(curl|\.venv/bin/python) .+", text):
                is_output = not re.match(r"(curl|\.venv/bin/python|make) ", following)
                yield Example(page.name, text, following if is_output else "")


EXAMPLES: Final = list(examples())


@pytest.fixture(scope="module")
def proxy() -> Iterator[ProxyProcess]:
    """The proxy of `make run`, but with a shorter job timeout."""
    with ProxyProcess.started(JOB_TIMEOUT="3", LOST_REPLY_WAIT="1.5") as proxy:
        yield proxy
        assert proxy.stop() == 0


def pasted(proxy: ProxyProcess, command: str) -> str:
    """Return the command's output, with this proxy's addresses and our interpreter instead of the page's."""
    command = command.replace("http://127.0.0.1:3000", proxy.url).replace(".venv/bin/python", sys.executable)
    ended = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return ended.stdout


def test_there_are_examples() -> None:
    """The pages are parsed as they are written."""
    assert {example.page for example in EXAMPLES} == {page.name for page in _PAGES}
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(
    "example", [it for it in EXAMPLES if it.shown.startswith("{")], ids=lambda it: f"{it.page}: {it.command[:60]}"
)
def test_an_example_prints_what_the_page_shows(proxy: ProxyProcess, example: Example) -> None:
    """The same members and, for a problem, the same one; ids and times differ."""
    printed, shown = json.loads(pasted(proxy, example.command)), json.loads(example.shown)
    assert printed.keys() == shown.keys()
    for member in shown.keys() & {"type", "title", "status", "detail", "code", "submitted", "retry_safe", "state"}:
        assert printed[member] == shown[member]


@pytest.mark.parametrize(
    "example",
    [it for it in EXAMPLES if "WORK SAMPLE RESULT" in it.shown or "jobclient" in it.command],
    ids=lambda it: it.page,
)
def test_the_job_client_passes(proxy: ProxyProcess, example: Example) -> None:
    """Its last line is the one on the page."""
    assert pasted(proxy, example.command).rstrip().endswith("WORK SAMPLE RESULT: PASSED")


def test_a_job_that_is_not_waited_for_is_asked_for_with_the_id_of_its_answer(proxy: ProxyProcess) -> None:
    """The page's two commands, one after the other: the headers on the page, then the result."""
    (first,) = [it for it in EXAMPLES if "respond-async" in it.command]
    (second,) = [it for it in EXAMPLES if "/result" in it.command]
    printed = pasted(proxy, first.command)
    names = [line.partition(":")[0] for line in printed.partition("\n\n")[0].splitlines()]
    shown = [line.partition(":")[0] for line in first.shown.splitlines() if line != "…"]
    assert names[: len(shown)] == shown
    (job_id,) = re.findall(r"^job-id: (.+)$", printed, re.MULTILINE)
    command, replaced = _JOB_ID.subn(job_id.strip(), second.command)
    assert replaced == 1
    assert json.loads(pasted(proxy, command))["state"] == "completed"


def test_the_same_key_twice_is_one_job(proxy: ProxyProcess) -> None:
    """The page's command, pasted twice."""
    (example,) = [it for it in EXAMPLES if "Idempotency-Key" in it.command]
    first, second = pasted(proxy, example.command), pasted(proxy, example.command)
    assert re.findall("^job-id: .+$", first, re.MULTILINE) == re.findall("^job-id: .+$", second, re.MULTILINE)
    assert "idempotent-replayed: true" not in first
    assert "idempotent-replayed: true" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]


def test_every_fault_of_the_tour_ends_as_its_row_says(proxy: ProxyProcess) -> None:
    """Status, code and `submitted` of each row of the table."""
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+?) \| (?:`(\w+)` )?\|", tour, re.MULTILINE)
    assert len(found) > 10
    for fault, status, result, submitted in found:
        job = json.dumps({"account": f"tour-{fault}", "fault": fault})
        address = "-H 'Content-Type: application/json' http://127.0.0.1:3000/queueJob"
        body, _, code = pasted(proxy, f"curl -s -w '\\n%{{http_code}}' -d '{job}' {address}").rpartition("\n")
        answer = json.loads(body)
        assert code == status, fault
        assert answer.get("code", "") == (re.findall("`(.+?)`", result)[0] if status == "500" else ""), fault
        assert answer.get("submitted", "") == submitted, fault


def test_the_pages_name_the_addresses_that_a_start_prints() -> None:
    """With every setting at its default, the README's ports listen; a cluster and a stand-in have one more each."""
    readme = Path(_PAGES[0]).read_text(encoding="utf-8")
    defaults = {variables()[name].default for name in ("PORT", "ADMIN_PORT")}
    of_cluster = {str(Options().port + 2)}  # its job server, which is another one
    of_stand_in = {*re.findall(r"-m jobserver --port (\d+)", readme)}
    assert len(of_stand_in) == 1
    assert {*re.findall(r"127\.0\.0\.1:(\d+)", readme)} == defaults | of_cluster | of_stand_in
