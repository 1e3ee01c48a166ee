"""What the generators share. Each has a `pages()` that returns the files it owns with the text they should have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "cell", "table", "write"]

ROOT: Final = Path(__file__).resolve().parent.parent


def write(pages: Mapping[Path, str]) -> None:
    """Write each file that differs, and say so."""
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown, with a line break at its end."""
    rule = "|" + "---|" * len(heads) + "\n"
    return _row(heads) + rule + "".join(_row(row) for row in rows)


def _row(cells: tuple[str, ...]) -> str:
    return "|" + "".join(f" {text} |" if text else " |" for text in cells) + "\n"


def cell(text: str) -> str:
    """Return `text` for a cell of a table, where a vertical bar would end it."""
    return text.replace("|", "\\|")
