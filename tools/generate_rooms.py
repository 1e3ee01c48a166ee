"""`python -m tools.generate_rooms`: writes the purpose of each package into docs/architecture.md.

The text is the packages' docstrings; the order is that of the layers contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools import pages as files

__all__ = ["PAGE", "main", "pages", "table"]

PAGE: Final = files.ROOT / "docs" / "architecture.md"


def table() -> str:
    """Return the packages as Markdown, subpackages below their packages."""
    rows = [(f"`{folder}/`", files.cell(_purpose(folder))) for top in _layers() for folder in _folders(top)]
    rows += [(f"`{folder}/`", files.cell(_purpose(folder))) for folder in ("jobserver", "jobclient")]
    return files.table(("Package", "Purpose"), rows)


def pages() -> dict[Path, str]:
    """Return the page with the text it should have."""
    return {PAGE: files.replaced(PAGE.read_text(encoding="utf-8"), "generate_rooms", table())}


def main() -> None:
    """Write the page if it differs."""
    files.write(pages())


def _layers() -> Iterator[str]:
    """Yield the folders of the layers contract."""
    config = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (it for it in config["tool"]["importlinter"]["contracts"] if it["id"] == "layers")
    for layer in contract["layers"]:
        for module in layer.split("|"):
            folder = module.strip().replace(".", "/")
            if (files.ROOT / folder).is_dir():
                yield folder


def _folders(top: str) -> Iterator[str]:
    for path in sorted((files.ROOT / top).rglob("__init__.py")):
        yield str(path.parent.relative_to(files.ROOT))


def _purpose(folder: str) -> str:
    """Return the docstring's first paragraph."""
    module = ast.parse((files.ROOT / folder / "__init__.py").read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(module) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    main()
