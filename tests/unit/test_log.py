"""What a log line says, and that it cannot be forged."""

from __future__ import annotations

import ast
import io
import json
import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import log
from proxy.jobs.job import Job
from proxy.jobs.log_lines import job_line
from proxy.workers.log_lines import worker_line
from proxy.workers.worker import Worker
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.messages import Log
from shared.outcome import Failed, Succeeded
from tests.support.jobs import a_job

_LIFE = (Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ, Event.CALLBACK, Event.FINISH)
_PHASES = ("queue_ms", "start_ms", "submission_ms", "job_ms", "delivery_ms")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _written(log_format: str, output: io.StringIO | None = None, **fields: object) -> str:
    output = output or io.StringIO()
    writer = log.configure(log_format, "info", output)
    log.event("info", "something", **fields)
    writer.close()
    return output.getvalue()


def _job(*events: Event) -> Job:
    job = a_job(body=b'{"card": "not-to-be-seen"}')
    job.worker_pid = 77
    for event in events:
        job.advance(event)
    return job


def _line_of(job: Job, outcome: Succeeded | Failed) -> dict[str, Any]:
    output = io.StringIO()
    writer = log.configure("json", "info", output)
    job_line(job, outcome)
    writer.close()
    (line,) = output.getvalue().splitlines()
    assert job.token not in line
    assert "not-to-be-seen" not in line
    return cast("dict[str, Any]", json.loads(line))


@given(st.text())
def test_no_value_can_forge_a_line_of_json(text: str) -> None:
    """Whatever a value contains, it stays one line, and is decoded to the same text."""
    written = _written("json", value=text)
    assert written.count("\n") == 1
    assert len(written.splitlines()) == 1
    assert json.loads(written)["value"] == text


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\n\r\x1b\x07\x9b\u2028\u202e\x85\ud800"))))
def test_no_value_can_forge_a_line_on_a_terminal(text: str) -> None:
    """On the console, too, no value can start a line or move the cursor."""
    written = _written("console", value=text)
    assert written.count("\n") == 1
    assert all(char.isprintable() for char in written[:-1])


async def test_a_worker_cannot_forge_a_line_either() -> None:
    """A worker's message is one line, on a terminal without any colour of its own."""
    output = _Terminal()
    writer = log.configure("auto", "info", output)
    worker = cast("Worker", type("Fake", (), {"pid": 5, "handler": None})())
    worker_line(worker, Log(level="error", event="boom\n\x1b[2J2026 fake", job_id="a\nb"))
    writer.close()
    assert output.getvalue().count("\n") == 1
    assert "\x1b[2J" not in output.getvalue()


def test_a_terminal_gets_colours_and_a_file_gets_json() -> None:
    """`auto` is for people on a terminal and for programs elsewhere."""
    assert "\x1b[" in _written("auto", _Terminal())
    assert json.loads(_written("auto"))["event"] == "something"
    assert "\x1b[" not in _written("console")


async def test_a_success_is_one_line_with_every_phase() -> None:
    """The line has the job, its worker, state and outcome, and the duration of each phase."""
    line = _line_of(_job(*_LIFE), Succeeded(body=b'{"proof": "not-to-be-seen"}'))
    assert line["event"] == "job succeeded"
    assert (line["worker_pid"], line["state"]) == (77, "finished")
    assert (line["outcome"], line["submitted"]) == ("succeeded", "yes")
    assert all(line[phase] >= 0 for phase in _PHASES)
    assert sum(line[phase] for phase in _PHASES) == pytest.approx(line["total_ms"], abs=0.5)


async def test_a_failure_says_its_code_and_the_phases_it_reached() -> None:
    """A job whose submission was refused once and then never answered has no job phase and no delivery."""
    life = (Event.ASSIGN, Event.CONNECTED, Event.REFUSED, Event.CONNECTED, Event.FINISH)
    failed = Failed(code=Code.DEADLINE_EXCEEDED, detail="too late", submitted=Submitted.UNKNOWN)
    line = _line_of(_job(*life), failed)
    assert (line["level"], line["event"]) == ("warning", "job failed")
    assert (line["outcome"], line["submitted"]) == ("deadline-exceeded", "unknown")
    assert line["detail"] == "too late"
    assert line["refusals"] == 1
    assert [phase for phase in _PHASES if phase in line] == ["queue_ms", "start_ms", "submission_ms"]


async def test_an_early_callback_leaves_no_submission_phase_out_of_order() -> None:
    """A callback that overtakes the worker's messages ends the start; no phase is negative."""
    line = _line_of(_job(Event.ASSIGN, Event.CALLBACK, Event.CONNECTED, Event.FINISH), Succeeded(body=b"{}"))
    assert "submission_ms" not in line
    assert all(line[phase] >= 0 for phase in _PHASES if phase in line)


def test_an_output_that_takes_nothing_costs_lines_and_nothing_else() -> None:
    """A full disk loses lines, which are counted; the caller does not notice."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "no space left on device")

    writer = log.configure("json", "info", Full())
    log.event("info", "something")
    writer.close()
    assert writer.dropped == 1


def test_a_reader_that_stopped_reading_blocks_nobody() -> None:
    """Lines beyond the limit are dropped at once, while the writing thread hangs."""
    go_on = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            go_on.wait(10)
            return len(text)

    writer = log.LineWriter(Stuck())
    for _ in range(30_000):
        writer.msg("x")
    assert writer.dropped >= 30_000 - 10_000 - 1_000
    go_on.set()
    writer.close()


def _stumble() -> None:
    token = "a-secret-token"
    raise OverflowError(token)


def test_an_exception_is_logged_by_its_type_and_place_and_never_by_its_words() -> None:
    """File, line and function are code; a message may be secret."""
    with pytest.raises(OverflowError) as caught:
        _stumble()
    fields: dict[str, Any] = {**log.exception_fields(caught.value)}
    line = _written("json", **fields)
    assert json.loads(line)["kind"] == "OverflowError"
    assert json.loads(line)["at"].startswith("tests/unit/test_log.py:")
    assert " _stumble < tests/unit/test_log.py:" in line
    assert "secret" not in line


def test_the_exception_of_a_thread_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would be a traceback on stderr, including its message."""
    output = io.StringIO()
    writer = log.configure("json", "info", output)
    monkeypatch.setattr(threading, "excepthook", log.on_thread_error)
    thread = threading.Thread(target=_stumble, name="one")
    thread.start()
    thread.join()
    writer.close()
    line = json.loads(output.getvalue())
    assert (line["event"], line["thread"], line["kind"]) == ("unhandled exception in a thread", "one", "OverflowError")


_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "path", [*(_ROOT / "proxy").rglob("*.py"), *(_ROOT / "worker").rglob("*.py")], ids=lambda path: str(path.name)
)
def test_whoever_logs_an_exception_that_nobody_expected_says_where_it_came_from(path: Path) -> None:
    """Every handler for any exception that logs at all logs `exception_fields`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ExceptHandler)
            and isinstance(node.type, ast.Name)
            and node.type.id.endswith("Exception")
        ):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            names = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
            assert not names & {"event", "job_event"} or "exception_fields" in names, ast.unparse(node)


@pytest.mark.parametrize(("level", "logged"), [("info", None), ("warning", "warning"), ("critical", "error")])
def test_what_a_library_says_is_a_line_like_any_other(level: str, logged: str | None) -> None:
    """In one line, without a token."""
    output = io.StringIO()
    writer = log.configure("json", "info", output)
    getattr(logging.getLogger("some.library"), level)("no\nconnection to %s", "x" * 43)
    writer.close()
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    said = [(line["level"], line["event"], line["source"], line["text"]) for line in lines]
    assert said == ([(logged, "a library reports", "some.library", "no connection to \u2026")] if logged else [])


def test_a_library_whose_words_do_not_fit_together_is_heard_all_the_same() -> None:
    """A library's bug is no reason to fail."""
    output = io.StringIO()
    writer = log.configure("json", "info", output)
    (ours,) = (handler for handler in logging.getLogger().handlers if type(handler).__module__ == log.__name__)
    ours.handle(logging.LogRecord("some.library", logging.ERROR, "", 0, "%d", ("no number",), None))
    writer.close()
    line = json.loads(output.getvalue())
    assert (line["event"], line["source"], line["text"]) == ("a library reports", "some.library", "TypeError")
