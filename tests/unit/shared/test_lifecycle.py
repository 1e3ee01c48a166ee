"""The life of a job, row by row and as a whole."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.lifecycle import TABLE, Event, IllegalEventError, State, Submitted, advance, submitted

#: The table again, as a person would draw it: everything else is illegal.
ROWS: Final = {
    (State.ACCEPTED, Event.ASSIGN): State.ASSIGNED,
    (State.ACCEPTED, Event.PROGRESS): State.WAITING,
    (State.ACCEPTED, Event.CALLBACK): State.WAITING,
    (State.ACCEPTED, Event.FINISH): State.FINISHED,
    (State.ASSIGNED, Event.CONNECTED): State.SUBMITTING,
    (State.ASSIGNED, Event.WORKER_LOST): State.ACCEPTED,
    (State.ASSIGNED, Event.REFUSED): State.ASSIGNED,
    (State.ASSIGNED, Event.PROGRESS): State.WAITING,
    (State.ASSIGNED, Event.CALLBACK): State.WAITING,
    (State.ASSIGNED, Event.FINISH): State.FINISHED,
    (State.SUBMITTING, Event.REFUSED): State.ASSIGNED,
    (State.SUBMITTING, Event.REPLY_READ): State.WAITING,
    (State.SUBMITTING, Event.PROGRESS): State.WAITING,
    (State.SUBMITTING, Event.CALLBACK): State.WAITING,
    (State.SUBMITTING, Event.FINISH): State.FINISHED,
    (State.WAITING, Event.CONNECTED): State.WAITING,
    (State.WAITING, Event.REFUSED): State.WAITING,
    (State.WAITING, Event.REPLY_READ): State.WAITING,
    (State.WAITING, Event.PROGRESS): State.WAITING,
    (State.WAITING, Event.CALLBACK): State.WAITING,
    (State.WAITING, Event.FINISH): State.FINISHED,
}
ILLEGAL: Final = [pair for pair in itertools.product(State, Event) if pair not in ROWS]


@pytest.mark.parametrize(("row", "following"), ROWS.items(), ids=lambda value: "-".join(map(str, value)))
def test_an_event_of_the_table_leads_where_the_table_says(row: tuple[State, Event], following: State) -> None:
    """Each row of the table."""
    assert advance(*row) is following


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_that_the_table_does_not_have_raises(state: State, event: Event) -> None:
    """The error names the event and the state."""
    with pytest.raises(IllegalEventError, match=f"{state} cannot take the event {event}") as caught:
        advance(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)


def test_the_table_has_every_state_and_nothing_more_than_these_rows() -> None:
    """The table is the one above."""
    assert set(TABLE) == set(State)
    assert {(state, event): to for state, row in TABLE.items() for event, to in row.items()} == ROWS


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State.ACCEPTED, Submitted.NO),
        (State.ASSIGNED, Submitted.NO),
        (State.SUBMITTING, Submitted.UNKNOWN),
        (State.WAITING, Submitted.YES),
    ],
)
def test_a_state_says_whether_the_job_server_has_the_job(state: State, says: Submitted) -> None:
    """What a failure says follows from the state alone."""
    assert submitted(state) is says


def test_a_finished_job_no_longer_says_by_its_state_whether_it_was_submitted() -> None:
    """The outcome says it; asking the state is a bug and raises."""
    with pytest.raises(ValueError, match="finished"):
        submitted(State.FINISHED)


def test_the_table_cannot_be_changed() -> None:
    """Neither the table nor a row can be assigned to."""
    with pytest.raises(TypeError):
        TABLE[State.FINISHED] = TABLE[State.WAITING]  # type: ignore[index] # that is the point
    with pytest.raises(TypeError):
        TABLE[State.FINISHED][Event.FINISH] = State.FINISHED  # type: ignore[index] # that is the point


@given(st.lists(st.sampled_from(Event)))
def test_no_history_leads_out_of_finished_or_down_from_waiting(events: list[Event]) -> None:
    """A finished job stays finished; a job that the job server certainly has never goes back."""
    state, seen = State.ACCEPTED, []
    for event in events:
        try:
            state = advance(state, event)
        except IllegalEventError:
            continue
        seen.append(state)
    for earlier, later in itertools.pairwise(seen):
        assert earlier is not State.FINISHED
        if earlier is State.WAITING:
            assert later in {State.WAITING, State.FINISHED}


class LifeOfAJob(RuleBasedStateMachine):
    """Compares `advance` with a model that knows only the facts, not the table.

    The facts are: has a worker the job, may a submission have been sent, is there proof that the job server has it, has
    it ended. The state has to match these facts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = State.ACCEPTED
        self.assigned = self.sent = self.proof = self.over = False

    def take(self, event: Event, *, legal: bool) -> None:
        """Apply `event`; check that it is accepted, or refused without a trace."""
        before = self.state
        if legal:
            self.state = advance(self.state, event)
            return
        with pytest.raises(IllegalEventError):
            advance(self.state, event)
        assert self.state is before

    @rule()
    def assign(self) -> None:
        """A worker gets the job: one at a time, and none once there is proof."""
        legal = not self.assigned and not self.proof and not self.over
        self.take(Event.ASSIGN, legal=legal)
        self.assigned |= legal

    @rule()
    def worker_lost(self) -> None:
        """The worker is gone; another one may get the job if nothing was sent."""
        legal = self.assigned and not self.over and not self.sent and not self.proof
        self.take(Event.WORKER_LOST, legal=legal)
        if legal:
            self.assigned = False

    @rule()
    def connected(self) -> None:
        """There is a connection: only while nothing was sent; without effect once there is proof."""
        legal = not self.over and (self.proof or (self.assigned and not self.sent))
        self.take(Event.CONNECTED, legal=legal)
        self.sent |= legal

    @rule()
    def refused(self) -> None:
        """The job server certainly started nothing with this attempt."""
        legal = (self.assigned or self.proof) and not self.over
        self.take(Event.REFUSED, legal=legal)
        if legal:
            self.sent = False

    @rule()
    def reply_read(self) -> None:
        """The reply to the submission says that the job is running."""
        legal = not self.over and (self.sent or self.proof)
        self.take(Event.REPLY_READ, legal=legal)
        self.proof |= legal

    @rule()
    def callback(self) -> None:
        """A callback comes; before a worker has the job, after a submission by a lost worker."""
        legal = not self.over
        self.take(Event.CALLBACK, legal=legal)
        self.proof |= legal

    @rule()
    def progress(self) -> None:
        """A callback that is not final proves as much."""
        legal = not self.over
        self.take(Event.PROGRESS, legal=legal)
        self.proof |= legal

    @precondition(lambda self: self.assigned)
    @rule()
    def finish(self) -> None:
        """The outcome is known, once."""
        legal = not self.over
        self.take(Event.FINISH, legal=legal)
        self.over = True

    @invariant()
    def the_state_says_what_happened(self) -> None:
        """State and facts agree."""
        if self.over:
            assert self.state is State.FINISHED
        elif self.proof:
            assert submitted(self.state) is Submitted.YES
        elif self.sent:
            assert submitted(self.state) is Submitted.UNKNOWN
        else:
            assert submitted(self.state) is Submitted.NO
            assert self.state is (State.ASSIGNED if self.assigned else State.ACCEPTED)


TestLifeOfAJob = LifeOfAJob.TestCase
