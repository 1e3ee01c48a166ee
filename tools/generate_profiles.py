"""`python -m tools.generate_profiles`: writes the table of the shipped profiles into docs/profiles.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.job_server import loader
from tools import pages as files

__all__ = ["PAGE", "main", "pages", "table"]

PAGE: Final = files.ROOT / "docs" / "profiles.md"


def table() -> str:
    """Return a table with a row for each profile: its job server, and what that can do."""
    rows: list[tuple[str, ...]] = []
    for name in loader.shipped():
        profile = loader.load(name)
        link = f"[{profile.name}](../profiles/{name}.toml)"
        about = files.cell(profile.description)
        if profile.documentation:
            about += f" ([documentation]({profile.documentation}))"
        proof = "" if profile.verify is None else profile.verify.scheme
        can = [call for call in ("status", "result", "cancel") if getattr(profile, call) is not None]
        rows.append((link, about, profile.tried_with or "its samples", proof, ", ".join(can)))
    return files.table(("Profile", "Job server", "Tried with", "Callbacks are proven by", "Calls"), rows)


def pages() -> dict[Path, str]:
    """Return the page with the text it should have."""
    return {PAGE: files.replaced(PAGE.read_text(encoding="utf-8"), "generate_profiles", table())}


def main() -> None:
    """Write the page if it differs."""
    files.write(pages())


if __name__ == "__main__":
    main()
