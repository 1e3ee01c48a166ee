"""The ledger: what it keeps, what it counts, what it drops."""

import pytest

from jobserver import ledger as ledger_module
from jobserver.ledger import BODY_LIMIT_BYTES, Ledger, SubmissionEntry


def note(ledger: Ledger, raw: bytes = b"{}", **fields: object) -> SubmissionEntry:
    """A submission with these columns filled in."""
    entry = ledger.submission(raw, {})
    for name, value in fields.items():
        setattr(entry, name, value)
    return entry


def call(ledger: Ledger, status: int | None) -> None:
    """A callback that ended with this status."""
    ledger.callback("id", "http://c", kind="result", attempt=1, status=status, error=None, took_s=0.0)


def test_a_submission_is_shown_as_it_was_sent() -> None:
    """Raw text, parsed body and relevant headers are there; other headers are not."""
    ledger = Ledger()
    ledger.submission(b'{"account": "a", "n": 1.50}', {"user-agent": "u", "cookie": "secret"})
    shown = ledger.as_json()["submissions"][0]
    assert shown["raw"] == '{"account": "a", "n": 1.50}'
    assert shown["body"] == {"account": "a", "n": 1.5}
    assert shown["headers"] == {"user-agent": "u"}
    assert (shown["n"], shown["refused"], shown["truncated"]) == (1, False, False)


def test_a_body_that_is_no_text_is_shown_all_the_same() -> None:
    """Bytes that are not UTF-8 are decoded as latin-1, and there is no parsed body."""
    ledger = Ledger()
    note(ledger, b"\xff\xfe")
    shown = ledger.as_json()["submissions"][0]
    assert (shown["raw"], shown["body"]) == ("\xff\xfe", None)


def test_of_a_long_body_the_beginning_is_kept() -> None:
    """The entry says that it is truncated, and how long the body was."""
    ledger = Ledger()
    note(ledger, b'"' + b"x" * BODY_LIMIT_BYTES + b'"')
    shown = ledger.as_json()["submissions"][0]
    assert len(shown["raw"]) == BODY_LIMIT_BYTES
    assert (shown["truncated"], shown["raw_bytes"], shown["body"]) == (True, BODY_LIMIT_BYTES + 2, None)


def test_the_newest_entries_are_kept_and_the_dropped_ones_counted() -> None:
    """Both lists are bounded; the counts continue."""
    ledger = Ledger(limit=3)
    for _ in range(5):
        note(ledger)
        call(ledger, 200)
    assert [entry.n for entry in ledger.submissions] == [3, 4, 5]
    assert len(ledger.callbacks) == 3
    summary = ledger.summary()
    assert (summary["submissions"], summary["submissions_dropped"]) == (5, 2)
    assert (summary["callbacks"], summary["callbacks_dropped"]) == (5, 2)


def test_the_bodies_kept_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many large bodies push out the oldest submissions."""
    monkeypatch.setattr(ledger_module, "BODIES_LIMIT_BYTES", 100)
    ledger = Ledger()
    for _ in range(5):
        note(ledger, b"x" * 40)
    assert [entry.n for entry in ledger.submissions] == [4, 5]


def test_only_2xx_counts_as_accepted() -> None:
    """No answer and any other status are failures."""
    ledger = Ledger()
    for status in (200, 204, 404, 302, None):
        call(ledger, status)
    summary = ledger.summary()
    assert (summary["callbacks_accepted"], summary["callbacks_not_accepted"]) == (2, 3)


def test_a_job_submitted_twice_is_found_by_its_ref_and_by_its_callback() -> None:
    """Refused attempts do not count; two accepted ones of a job do."""
    ledger = Ledger()
    note(ledger, callback="http://one", refused=True)
    note(ledger, callback="http://one")
    assert ledger.submitted_twice() == []
    note(ledger, callback="http://two", ref="r")
    note(ledger, callback="http://three", ref="r")
    note(ledger, callback="http://one")
    assert sorted(ledger.submitted_twice()) == ["http://one", "r"]


def test_a_cleared_ledger_counts_from_one_again() -> None:
    """Nothing of the past remains."""
    ledger = Ledger()
    note(ledger)
    call(ledger, 200)
    ledger.elsewhere = 3
    ledger.clear()
    assert ledger.summary() == Ledger().summary()
    assert note(ledger).n == 1


def test_the_last_entries_can_be_asked_for() -> None:
    """`last` cuts each list from its end."""
    ledger = Ledger()
    for _ in range(3):
        note(ledger)
    assert [entry["n"] for entry in ledger.as_json(last=2)["submissions"]] == [2, 3]
    assert ledger.as_json(last=0)["submissions"] == []
