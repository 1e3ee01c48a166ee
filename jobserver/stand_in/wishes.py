"""What the stand-in does with a job, as wished by the text `stand-in=WISH` anywhere in its body."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["WISHES", "wish_of"]

#: Each wish, and what it does.
WISHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "succeeded": "the job succeeds (the default)",
        "failed": "the job fails",
        "progress": "the job succeeds after its progress callbacks, if the profile has samples of any",
        "lost": "the job succeeds, but the callback is lost: only a status call tells",
        "lost-failed": "the same with a failure",
        "never": "the job goes on for ever, or until it is cancelled",
        "early": "the callback comes before the reply",
        "twice": "the callback comes twice",
        "forged": "a callback without its proof comes first",
        "lost-reply": "the job runs, but the connection is cut before the reply",
        "busy": "the submission is told to come again, once",
        "refused": "the submission is refused",
        "error": "the submission is answered 500",
        "final": "the reply is the result, if the profile has a sample of that",
    }
)

_WISH: Final = re.compile(rb"stand-in=([a-z-]+)")


def wish_of(body: bytes) -> str:
    """Return the wish in a submission's body; an unknown one is ignored."""
    found = _WISH.search(body)
    wish = found[1].decode() if found else ""
    return wish if wish in WISHES else "succeeded"
