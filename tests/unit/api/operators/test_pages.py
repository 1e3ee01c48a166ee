"""The operators' pages as files: nothing inline, nothing from elsewhere, nothing that turns text into markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from proxy.api.operators import pages

_STATIC: Final = Path(pages.__file__).parent / "static"
_HTML: Final = sorted(_STATIC.glob("*.html"))
_SCRIPTS: Final = sorted(_STATIC.glob("*.js"))
#: What turns text into markup or code.
_DANGEROUS: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
    r"|setAttribute\(\"(?:on|style)"
)


def _name(path: Path) -> str:
    return path.name


class _Page(HTMLParser):
    """The content of a page's tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src", "action"}:
                self.addresses.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
        self._script = tag == "script"
        if tag == "style":
            self.inline.append(tag)

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", _HTML, ids=_name)
def test_a_page_has_nothing_inline_and_relative_addresses_only(path: Path) -> None:
    """So that the browser may refuse all inline code, and a gateway may use a prefix."""
    page = _Page(path.read_text(encoding="utf-8"))
    assert page.inline == []
    assert page.addresses
    assert [each for each in page.addresses if each.startswith("/") or ":" in each] == []


@pytest.mark.parametrize("path", _SCRIPTS, ids=_name)
def test_a_script_makes_no_markup_of_text_and_asks_nobody_else(path: Path) -> None:
    """Foreign text is inserted as text; requests are relative to the page."""
    text = path.read_text(encoding="utf-8")
    assert _DANGEROUS.findall(text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert re.findall(r"""(?:ask|act|fetch|link|EventSource|assign)\(["'`]/""", text) == []


@pytest.mark.parametrize("path", [*_HTML, *_SCRIPTS], ids=_name)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    """Imports of scripts, and files of pages."""
    named = re.findall(r"(?:from \"\./|static/)([\w.]+)", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (_STATIC / name).exists()] == []


def test_each_file_has_its_own_type_and_route() -> None:
    """`index.html` is served at `/`."""
    routes = {route.path for route in pages.routes()}
    assert "/" in routes
    assert routes >= {f"/{path.name}" for path in _HTML if path.name != "index.html"}
    assert routes >= {f"/static/{path.name}" for path in _SCRIPTS}


def test_the_dark_colour_scheme_changes_nothing_but_colours() -> None:
    """So only the rules about colours need be checked again with it (`COLOURS` in tests/support/axe.py)."""
    style = (_STATIC / "style.css").read_text(encoding="utf-8")
    (dark,) = re.findall(r"@media \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}\s*\}", style, re.DOTALL)
    assert re.fullmatch(r"(\s*--[a-z-]+: #[0-9a-f]+;)+\s*", dark)
    assert style.count("prefers-color-scheme") == 1
