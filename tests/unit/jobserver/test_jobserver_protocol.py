"""The protocol: what a submission is, and the form of the documents."""

import json
import re

import pytest

from jobserver.faults import FAULTS
from jobserver.protocol import BadSubmissionError, Documents, parse_submission, timestamp

CALLBACK = "http://127.0.0.1:1/callback/token"


def body(**fields: object) -> bytes:
    """An asynchronous submission with these additional fields."""
    return json.dumps({"account": "a", "wait": False, "callback": CALLBACK} | fields).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "missing"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "object"),
        (b"[" * 100_000, "deeply"),
        (b'{"account": NaN}', "NaN"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"{}", "`account`"),
        (b'{"account": ""}', "`account`"),
        (b'{"account": 1}', "`account`"),
        (body(wait="no"), "`wait`"),
        (body(callback=None), "`callback`"),
        (body(callback="ftp://host/x"), "`callback`"),
        (body(callback="http://"), "`callback`"),
        (body(callback="http://host:port/"), "`callback`"),
        (body(duration=-1), "`duration`"),
        (body(duration="1"), "`duration`"),
        (body(duration=True), "`duration`"),
        (body(fault="late", delay=-1), "`delay`"),
        (body(fault="many", times=1.5), "`times`"),
        (body(fault="big-result", bytes=-1), "`bytes`"),
        (body(fault="reject", status=500), "400 to 499"),
        (body(fault="redirect", status=200), "301, 302, 307, 308"),
        (body(fault="drop", run="yes"), "`run`"),
        (body(fault=["late"]), "`fault`"),
    ],
)
def test_what_is_no_submission_is_refused_with_the_reason(raw: bytes, words: str) -> None:
    """Every malformed body raises the same error, whose message names the problem."""
    with pytest.raises(BadSubmissionError, match=re.escape(words)):
        parse_submission(raw)


def test_an_unknown_fault_is_refused_by_naming_the_known_ones() -> None:
    """The message lists every name of the table."""
    with pytest.raises(BadSubmissionError) as caught:
        parse_submission(body(fault="lightning"))
    assert all(name in str(caught.value) for name in FAULTS)


def test_the_synchronous_form_needs_an_account_only() -> None:
    """The client's own form is accepted, and its callback ignored."""
    submission = parse_submission(b'{"account": "example", "wait": true}')
    assert (submission.account, submission.wait, submission.callback) == ("example", True, None)
    assert submission.runs


def test_without_a_fault_the_names_of_its_options_belong_to_the_client() -> None:
    """A job's own field called `bytes` does not count as an option."""
    submission = parse_submission(body(bytes="x", times=None, status={}, delay="soon", run=3))
    assert submission.fault_name == "none"
    assert submission.runs


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_can_be_asked_for_with_its_defaults(name: str) -> None:
    """The table's defaults pass the checks of a submission."""
    submission = parse_submission(body(fault=name))
    assert submission.fault is FAULTS[name]
    assert submission.status == FAULTS[name].status


def test_run_overrides_what_the_fault_says() -> None:
    """A dropped job can run, a slow one can be kept from running."""
    assert not parse_submission(body(fault="drop")).runs
    assert parse_submission(body(fault="drop", run=True)).runs
    assert not parse_submission(body(fault="slow-reply", run=False)).runs


def test_a_job_is_known_by_its_ref_then_by_its_callback() -> None:
    """The key names the same job again, whatever else differs."""
    assert parse_submission(body(ref="r")).job_key == "r"
    assert parse_submission(body()).job_key == CALLBACK
    assert parse_submission(b'{"account": "a"}').job_key == "a"


def test_documents_have_the_protocols_shape() -> None:
    """Ids are 16 hex digits, proofs 40 upper-case ones, times ISO 8601 with milliseconds."""
    documents = Documents()
    job_id = documents.new_id()
    assert re.fullmatch(r"[0-9a-f]{16}", job_id)
    assert json.loads(documents.running(job_id)) == {"state": "running", "id": job_id}
    done = json.loads(documents.completed(job_id, state="completed", started_at=timestamp()))
    assert list(done) == ["id", "state", "startedAt", "proof"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", done["startedAt"])
    assert re.fullmatch(r"[0-9A-F]{40}", done["proof"])


def test_the_same_seed_makes_the_same_ids() -> None:
    """A seeded run can be repeated; unseeded ones differ."""
    assert Documents(7).new_id() == Documents(7).new_id()
    assert Documents().new_id() != Documents().new_id()


@pytest.mark.parametrize("size_bytes", [200, 4096])
def test_a_padded_result_has_exactly_the_size_asked_for(size_bytes: int) -> None:
    """`bytes` counts the whole body, and the body stays JSON."""
    padded = Documents().completed("0" * 16, state="completed", started_at=timestamp(), size_bytes=size_bytes)
    assert len(padded) == size_bytes
    assert json.loads(padded)["state"] == "completed"
