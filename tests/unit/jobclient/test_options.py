"""The command line."""

import json

import pytest

from jobclient.options import parse

URL = "http://127.0.0.1:3000/queueJob"


def test_an_address_is_enough() -> None:
    """The defaults are the agreed 50 jobs in under 5 seconds."""
    options = parse([URL])

    assert (options.jobs, options.account, options.limit_s, options.retries) == (50, "example", 5.0, 0)
    assert json.loads(options.body) == {"account": "example", "wait": True}
    assert options.concurrency is None


def test_the_address_is_used_as_given() -> None:
    """No character is normalised: an escaped slash stays escaped, dots stay dots."""
    address = "http://127.0.0.1:3000/a%2Fb/../c?x=%7E"

    assert str(parse([address]).url) == address


def test_fields_are_json_and_may_repeat() -> None:
    """Values keep their types."""
    options = parse([URL, "--field", 'fault="late"', "--field", "n=1", "--field", 'text="a=b"'])

    assert json.loads(options.body) == {
        "account": "example",
        "wait": True,
        "fault": "late",
        "n": 1,
        "text": "a=b",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "URL"),
        (["ftp://127.0.0.1/"], "is not an http:// or https:// address"),
        (["http://a..b/"], "has a name that no host can have"),
        ([f"http://{'a' * 64}/"], "has a name that no host can have"),
        (["http://xn--/"], "has a name that no host can have"),
        (["127.0.0.1:3000"], "address"),
        (["http://"], "address"),
        (["http://[::1"], "address"),
        ([URL, "--jobs", "0"], "at least 1"),
        ([URL, "--jobs", "many"], "whole number"),
        ([URL, "--concurrency", "0"], "at least 1"),
        ([URL, "--retries", "-1"], "whole number"),
        ([URL, "--limit", "0"], "seconds"),
        ([URL, "--limit", "nan"], "seconds"),
        ([URL, "--timeout", "inf"], "seconds"),
        ([URL, "--field", "fault"], "KEY=JSON"),
        ([URL, "--field", "fault=late"], """fault='"late"'"""),
        ([URL, "--api-key", "a\nb"], "printable"),
        ([URL, "--job", "3"], "unrecognized"),
    ],
)
def test_wrong_usage_ends_with_status_2_and_says_why(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the argument and what it takes."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)

    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
