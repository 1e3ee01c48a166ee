"""JSON objects as the exact texts of their members: parsing and writing them again would change numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from shared import strict_json
from shared.errors import StrictJSONError

__all__ = ["members_of", "object_of", "text_at"]


def members_of(text: str) -> dict[str, str]:
    """Return the members of the JSON object `text`, each with the exact text of its value. Raises StrictJSONError."""
    return strict_json.object_members(text.encode())


def object_of(members: Mapping[str, str]) -> str:
    """Return the JSON object with these members."""
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items()) + "}"


def text_at(text: str, path: tuple[str, ...]) -> str | None:
    """Return the text of the member at `path` in the JSON object `text`, or None if there is none."""
    try:
        for name in path:
            members = members_of(text)
            if name not in members:
                return None
            text = members[name]
    except StrictJSONError:
        return None  # not an object, or one with a duplicate name
    return text
