"""`python -m tools.generate_state_diagram`: writes the states of a job into docs/architecture.md, from their table."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.lifecycle import TABLE, State, submitted
from tools import pages as files

__all__ = ["PAGE", "diagram", "main", "pages", "renewed", "table"]

PAGE: Final = files.ROOT / "docs" / "architecture.md"


def diagram() -> str:
    """Return the table as a mermaid state diagram, with one arrow for all events between the same two states."""
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{state}<br/>submitted: {_submitted(state)}" as {state}' for state in TABLE]
    lines.append(f"    [*] --> {State.ACCEPTED}")
    for state, events in TABLE.items():
        for target in dict.fromkeys(events.values()):
            label = ", ".join(event for event, reached in events.items() if reached is target)
            lines.append(f"    {state} --> {target}: {label}")
    lines.append(f"    {State.FINISHED} --> [*]")
    return "\n".join(lines)


def table() -> str:
    """Return the table as Markdown: a row for each state, with the events that leave it."""
    rows: list[tuple[str, ...]] = []
    for state, events in TABLE.items():
        ways = ", ".join(f"`{event}` → {target}" for event, target in events.items())
        rows.append((str(state), _submitted(state), ways or "none: it never changes again"))
    return files.table(("State", "`submitted` of a failure", "Event → next state"), rows)


def renewed(page: str) -> str:
    """Return `page` with the part regenerated. Raises ValueError if the markers are missing."""
    return files.replaced(page, "generate_state_diagram", f"```mermaid\n{diagram()}\n```\n\n{table()}")


def pages() -> dict[Path, str]:
    """Return the page with the text it should have."""
    return {PAGE: renewed(PAGE.read_text(encoding="utf-8"))}


def main() -> None:
    """Write the page if it differs."""
    files.write(pages())


def _submitted(state: State) -> str:
    return "as it was" if state is State.FINISHED else str(submitted(state))


if __name__ == "__main__":
    main()
