"""The pages are consistent: generated parts are current, named files exist, links work."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from shared.lifecycle import TABLE
from shared.settings import load
from tools import generate_state_diagram

_ROOT = Path(__file__).resolve().parents[3]
_GENERATORS = sorted(path.stem for path in (_ROOT / "tools").glob("generate_*.py"))
_PAGES = [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "deploy").rglob("*.md")]
_FOLDERS = (
    "bench",
    "cluster",
    "deploy",
    "docs",
    "jobclient",
    "jobserver",
    "proxy",
    "shared",
    "tests",
    "tools",
    "worker",
)
_PATH = re.compile(r"`((?:" + "|".join(_FOLDERS) + r")/[\w./-]*)(?:::(\w+))?`")
_CODE = re.compile(r"`(\w+)(?:\.(\w+))?` (?:and `_?\w+` )?in\s+`((?:proxy|worker|shared)/[\w/]+\.py)`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def text(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def page_id(page: Path) -> str:
    """A page's name."""
    return str(page.relative_to(_ROOT))


@pytest.mark.parametrize("name", _GENERATORS)
def test_the_generated_pages_are_current(name: str) -> None:
    """`make docs` would change nothing."""
    generator = importlib.import_module(f"tools.{name}")
    assert callable(generator.main)
    for page, should_be in generator.pages().items():
        assert text(page) == should_be, page


def test_the_state_diagram_has_every_arrow() -> None:
    """Each event of each state is on an arrow to its next state."""
    arrows = {
        (source, target, event)
        for line in generate_state_diagram.diagram().splitlines()
        if (found := re.fullmatch(r" +(\w+) --> (\w+): (.+)", line))
        for source, target, events in [found.groups()]
        for event in events.split(", ")
    }
    assert arrows == {(str(s), str(t), str(e)) for s, events in TABLE.items() for e, t in events.items()}


def test_a_page_without_markers_is_refused() -> None:
    """The generator raises an error and writes nothing."""
    with pytest.raises(ValueError, match="begin"):
        generate_state_diagram.renewed("# A page\n")


@pytest.mark.parametrize("page", _PAGES, ids=page_id)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """Also if a file has moved; a test that is named as path::function exists."""
    for path, function in _PATH.findall(text(page)):
        assert (_ROOT / path).exists(), path
        assert not function or f"def {function}(" in text(_ROOT / path), function


@pytest.mark.parametrize("page", _PAGES, ids=page_id)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Only links inside the repository are checked."""
    for target in _LINK.findall(text(page)):
        assert (page.parent / target).exists(), target


def test_what_the_invariants_name_is_in_the_code() -> None:
    """A name `in` a file is defined there."""
    named = _CODE.findall(text(_ROOT / "docs" / "architecture.md"))
    assert len(named) > 10
    for name, attribute, path in named:
        source = text(_ROOT / path)
        assert re.search(rf"\b{name}\b", source), (name, path)
        assert not attribute or re.search(rf"\b{attribute}\b", source), (name, attribute, path)


def test_the_index_has_every_decision_with_its_title() -> None:
    """In order."""
    folder = _ROOT / "docs" / "decisions"
    titles = [(page.name, text(page).splitlines()[0].removeprefix("# ")) for page in sorted(folder.glob("0*.md"))]
    lines = re.findall(r"^- \[(\d+)\]\((.+)\): (.+)$", text(folder / "README.md"), re.MULTILINE)
    assert [(name, f"{number}: {words}") for number, name, words in lines] == titles


def test_eleven_questions_have_one_file_each() -> None:
    """A maintainer needs one file to answer a question."""
    section = text(_ROOT / "docs" / "architecture.md").split("\n## Eleven questions", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.+\?) \| `([\w/.]+)` \|$", section, re.MULTILINE)
    assert len({question for question, _ in rows}) == len({path for _, path in rows}) == 11


def test_the_check_beside_a_running_service_can_be_made_with_any_settings() -> None:
    """What the two commands set fits to settings of the service that need a journal."""
    section = text(_ROOT / "docs" / "operations.md").split("\n## Running `--check` as the service\n", 1)[1]
    commands = section.split("\n## ", 1)[0].split("docker exec")
    for command in commands:
        names = dict(re.findall(r"(?<= )(PORT|ADMIN_PORT|CALLBACK_PORT|JOURNAL)=(\S*)", command))
        assert len(names) == 4
        load({"SQS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/jobs", "PORT": ""} | names)


def test_the_check_beside_a_running_service_reads_what_the_service_reads() -> None:
    """Its user and its folder, where its keys and certificates are, are those of the unit."""
    section = text(_ROOT / "docs" / "operations.md").split("\n## Running `--check` as the service\n", 1)[1]
    command = section.split("docker exec", 1)[0]
    unit = text(_ROOT / "deploy" / "async-job-proxy.service").splitlines()
    names = ("DynamicUser=", "StateDirectory=", "WorkingDirectory=", "LimitNOFILE=", "Environment=JOURNAL=")
    for line in unit:
        if line.startswith(names):
            assert f"-p {line} " in command.replace("\n", " ")
    assert "-p User=async-job-proxy " in command  # which a unit of that name has by itself


def test_a_backup_of_the_database_misses_no_table() -> None:
    """The page about several instances names each."""
    schema = text(_ROOT / "proxy" / "store" / "postgresql" / "schema.py")
    section = text(_ROOT / "docs" / "cluster.md").split("\n## Backup\n", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", schema)) == set(re.findall(r"`(proxy_\w+)`", section))


def test_dot_env_is_in_the_repository() -> None:
    """It is documentation, too; some people ignore it in git by habit."""
    listed = subprocess.run(["git", "check-ignore", ".env"], cwd=_ROOT, capture_output=True, check=False)
    assert listed.returncode != 0
