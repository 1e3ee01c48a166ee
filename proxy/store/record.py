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

#: What a record takes in memory besides its bodies; an estimate.
_OVERHEAD_BYTES: Final = 1_000


#: How many characters of an id are needed to find a job by its beginning.
LEAST_CHARACTERS: Final = 6
#: Half of an id. An entrance may choose it, so that it can find the job by it; the other half cannot be guessed.
BEGINNING_CHARACTERS: Final = 16


class Record(Struct, frozen=True, kw_only=True):
    """What is known about one job. When more is known, a new record with the same id is made.

    States mean the same as in the life cycle. A state is recorded before the job may reach it: a record that says
    SUBMITTING belongs to a job that may have been submitted, one that says ACCEPTED to a job that was not.

    Five are made for each job. It is a msgspec struct, because a frozen dataclass of this size takes a hundred times as
    long to make.
    """

    id: str
    #: SHA-256 of the callback token.
    token_hash: bytes
    #: The hash of the idempotency key, and SHA-256 of the body that came with it.
    key: bytes | None = None
    fingerprint: bytes = b""
    #: ACCEPTED, SUBMITTING, WAITING or FINISHED. That a worker has the job is not recorded: no later process needs it.
    state: State = State.ACCEPTED
    #: Unix time in seconds: the monotonic clock means nothing to a later process.
    accepted_at: float
    deadline_at: float
    finished_at: float | None = None
    #: What the client was answered if no result came in time; stays when a result comes later.
    failure: Failed | None = None
    #: The body of the first callback, byte for byte, and whether it says that the job failed.
    callback: bytes | None = None
    says_failed: bool = False
    #: The callback came before the reply to the submission was read.
    early: bool = False
    #: How many callbacks came after the first.
    duplicates: int = 0
    #: The job server's profile, and what later calls about the job need: values of its reply, and the client's path.
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
    #: If several instances share a store: the id of the instance that owns the job, and of the one that accepted it,
    #: where the client waits; the latter never changes. Empty if there is only one instance. An instance has a new id
    #: at each start of its process, so it does not own the jobs of an earlier process of the same name.
    owner: str = ""
    origin: str = ""
    #: The name of the instance that accepted the job; empty if there is only one.
    instance: str = ""
    #: How the last worker that the job lost ended, such as `SIGKILL`, and who cancelled the job; empty: none, nobody.
    worker_end: str = ""
    cancelled_by: str = ""
    #: What happened to the job and when, as `proxy/jobs/trail.py` writes it; empty before its end.
    trail: str = ""
    #: The part of the client's request that may be shown; None: it is not recorded.
    sent: bytes | None = None

    @property
    def beginning(self) -> str:
        """The beginning of the id."""
        return self.id[:BEGINNING_CHARACTERS]

    @property
    def submitted(self) -> Submitted:
        """Whether the job was submitted to the job server: follows from the state, or from how the job ended."""
        if self.callback is not None:
            return Submitted.YES
        if self.state is State.FINISHED:
            return self.failure.submitted if self.failure is not None else Submitted.YES
        return lifecycle.submitted(self.state)

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended; None while it is open. A callback counts even if it was late."""
        if self.callback is not None:
            return outcome_of(self.callback, failed=self.says_failed, content_type=self.content_type, error=self.error)
        return self.failure

    def proven(self) -> Record:
        """Return the record after any callback: it proves the submission, since only the job server has the token."""
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

        Never more than the job had at first, because the wall clock may have been changed.
        """
        return min(self.deadline_at - now, self.deadline_at - self.accepted_at)

    def took_s(self, now: float) -> float:
        """Return how many seconds the job took, or has taken at `now`, in Unix time.

        Not less than none, because the wall clock may have been set back.
        """
        return max(0.0, (now if self.finished_at is None else self.finished_at) - self.accepted_at)

    @property
    def late(self) -> bool:
        """Whether the result came after the client had been answered without one."""
        return self.callback is not None and self.failure is not None

    def is_called(self, text: str) -> bool:
        """Return whether this is a name of the job: a label, the job server's id, or the beginning of its own id."""
        return is_called(text, self.id, self.outputs.get("id", ""), self.labels)

    @property
    def size_bytes(self) -> int:
        """About how much memory this record takes."""
        return _OVERHEAD_BYTES + len(self.callback or b"") + len(self.sent or b"")


def is_called(text: str, job_id: str, remote_id: str, labels: Mapping[str, str]) -> bool:
    """Return whether `text` is a name of the job with these ids and labels."""
    begins = len(text) >= LEAST_CHARACTERS and job_id.startswith(text)
    return bool(text) and (begins or text == remote_id or text in labels.values())
