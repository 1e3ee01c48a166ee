"""The command line for a queue."""

from __future__ import annotations

import pytest

from jobclient.options import parse


def test_a_queue_is_named_as_it_is() -> None:
    """With its capitals, which an address would lose."""
    options = parse(["sqs://Jobs.fifo", "--reply-queue", "Replies"])
    assert (options.queue, options.reply_queue) == ("Jobs.fifo", "Replies")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sqs://jobs"],
        ["http://127.0.0.1/", "--reply-queue", "replies"],
        ["sqs://a/b", "--reply-queue", "c"],
        ["sqs://"],
    ],
)
def test_what_is_no_queue_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Both queues have to be given."""
    with pytest.raises(SystemExit) as exit_:
        parse(arguments)
    assert exit_.value.code == 2
    assert "sqs://" in capsys.readouterr().err
