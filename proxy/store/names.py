"""The names by which one job is looked for among many, and how they are found in a database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.store.record import LEAST_CHARACTERS

if TYPE_CHECKING:
    from proxy.store.record import Record

__all__ = ["Called", "Name", "Output"]

#: Sorts after every character of an id.
_LAST: Final = "~"


@dataclass(frozen=True, slots=True)
class Called:
    """What people call a job (`Record.is_called`)."""

    text: str

    def is_of(self, record: Record) -> bool:
        """Return whether it is a name of this job."""
        return record.is_called(self.text)

    @property
    def in_json(self) -> str:
        """What the stored JSON of labels or outputs contains if a job has this name.

        Other JSON may contain it too, so `is_of` has to confirm each match.
        """
        return f": {json.dumps(self.text)}"

    @property
    def ids(self) -> tuple[str, str]:
        """The bounds of the ids that match: inclusive, exclusive. An empty range if the text is too short."""
        return (self.text, self.text + _LAST) if len(self.text) >= LEAST_CHARACTERS else ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a job server calls its job: the value of one of the profile's outputs."""

    profile: str
    name: str
    value: str

    def is_of(self, record: Record) -> bool:
        """Return whether it is a name of this job. A job without a profile is from before there were profiles."""
        return record.profile in {self.profile, ""} and record.outputs.get(self.name) == self.value

    @property
    def in_json(self) -> str:
        """See `Called.in_json`."""
        return f"{json.dumps(self.name)}: {json.dumps(self.value)}"

    @property
    def ids(self) -> tuple[str, str]:
        """See `Called.ids`: there are none."""
        return "", ""


Name = Called | Output
