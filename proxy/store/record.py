"""The record of a job, whatever store it is in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field, structs

from shared import lifecycle
from shared.job_server.verdict import outcome_of
from shared.lifecycle import State, Submitted

if TYPE_CHECKING:
    from shared.outcome import Failed, Outcome

__all__ = ["BEGINNING_CHARACTERS", "LEAST_CHARACTERS", "Record", "is_called"]

#: What a record costs besides its body; an estimate, to bound what is kept in memory.
_OVERHEAD_BYTES: Final = 1_000


#: Of an id, by which a job is found.
LEAST_CHARACTERS: Final = 6
#: Half of an id. Whoever begins a job may choose it, so as to find the job by it; the other half cannot be guessed.
BEGINNING_CHARACTERS: Final = 16


class Record(Struct, frozen=True, kw_only=True):
    """What is known about one job. More knowledge makes a new record with the same id.

    A state means what it means in the life cycle. It is recorded before the job may reach it: a record that says
    SUBMITTING belongs to a job that may have been submitted, one that says ACCEPTED to a job that was not.

    Five are made for each job. It is msgspec's: a frozen dataclass of this size takes a hundred times as long to make.
    """

    id: str
    #: SHA-256 of the callback token.
    token_hash: bytes
    #: What an idempotency key is remembered by, and SHA-256 of the body that came with it.
    key: bytes | None = None
    fingerprint: bytes = b""
    #: ACCEPTED, SUBMITTING, WAITING or FINISHED: that a worker has a job is nothing that the next process could use.
    state: State = State.ACCEPTED
    #: Unix time in seconds; all that means the same to the next process.
    accepted_at: float
    deadline_at: float
    finished_at: float | None = None
    #: What the client was told where no result came in time; stays when a result comes later.
    failure: Failed | None = None
    #: The body of the first callback, byte for byte, and whether it says that the job failed.
    callback: bytes | None = None
    says_failed: bool = False
    #: The callback came before the reply to the submission was read.
    early: bool = False
    #: How many callbacks came after the first.
    duplicates: int = 0
    #: The job server's profile, and what later calls about the job need: what its reply named, and the client's path.
    profile: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    #: The job's labels: names and values that may be shown.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: How many callbacks were refused, and why the last one was.
    refused: int = 0
    refusal: str = ""
    #: The media type of the result in `callback` (empty: JSON), and the job server's reason of a failure.
    content_type: str = ""
    error: str = ""
    #: Where several instances share a store: the one that sees to the job, and the one that accepted it, whose client
    #: waits there. The second never changes. Empty where there is one instance only. An instance has a new id at each
    #: start of its process, so what an earlier one of the same name wrote is not its own.
    owner: str = ""
    origin: str = ""
    #: The name of the instance that accepted the job; empty if there is only one.
    instance: str = ""
    #: How the last worker ended that the job lost, such as `SIGKILL`, and who cancelled the job; empty: none, nobody.
    worker_end: str = ""
    cancelled_by: str = ""
    #: What happened to the job and when, as `proxy/jobs/trail.py` writes it; empty before its end.
    trail: str = ""
    #: What the client sent, as far as it is to be shown; None: it is not recorded.
    sent: bytes | None = None

    @property
    def beginning(self) -> str:
        """The beginning of the id."""
        return self.id[:BEGINNING_CHARACTERS]

    @property
    def submitted(self) -> Submitted:
        """Whether the job server was given the job: it follows from the state, or from how the job ended."""
        if self.callback is not None:
            return Submitted.YES
        if self.state is State.FINISHED:
            return self.failure.submitted if self.failure is not None else Submitted.YES
        return lifecycle.submitted(self.state)

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended, or None while that is open. A callback counts whenever it comes."""
        if self.callback is not None:
            return outcome_of(self.callback, failed=self.says_failed, content_type=self.content_type, error=self.error)
        return self.failure

    def proven(self) -> Record:
        """Return what is known once a callback came, whatever it says: only the job server has the job's token."""
        if self.state is not State.FINISHED:
            return structs.replace(self, state=State.WAITING)
        if self.failure is None or self.failure.submitted is Submitted.YES:
            return self
        return structs.replace(self, failure=dataclasses.replace(self.failure, submitted=Submitted.YES))

    @property
    def failed(self) -> bool:
        """Whether the client got a failure, in the end or at first."""
        return self.failure is not None or self.says_failed

    def left_s(self, now: float) -> float:
        """Return how many seconds are left until the deadline at `now`, in Unix time; negative once it is over.

        The wall clock may have been changed: never more time than the job had at first.
        """
        return min(self.deadline_at - now, self.deadline_at - self.accepted_at)

    @property
    def late(self) -> bool:
        """Whether the result came after the client had been answered without one."""
        return self.callback is not None and self.failure is not None

    def is_called(self, text: str) -> bool:
        """Return whether this name may mean this job: a label, the job server's id, or the beginning of its own id."""
        return is_called(text, self.id, self.outputs.get("id", ""), self.labels)

    @property
    def size_bytes(self) -> int:
        """About how much memory this record takes."""
        return _OVERHEAD_BYTES + len(self.callback or b"") + len(self.sent or b"")


def is_called(text: str, job_id: str, remote_id: str, labels: Mapping[str, str]) -> bool:
    """Return whether `text` is a name of a job that has these."""
    begins = len(text) >= LEAST_CHARACTERS and job_id.startswith(text)
    return bool(text) and (begins or text == remote_id or text in labels.values())
