"""The small pure parts: refusals, the bomb, the forged address, the command line."""

import dataclasses
import gzip
import json

import pytest

from jobserver.callbacks import forged
from jobserver.cli import fault_list, parse_arguments
from jobserver.faults import FAULTS
from jobserver.options import Options
from jobserver.protocol import Submission, parse_submission
from jobserver.refusals import Refusals
from jobserver.replies import gzip_bomb
from jobserver.serve import listening_line
from jobserver.stand_in.callbacks import caveats
from shared.job_server import loader


def asking(fault: str, ref: str, **fields: object) -> Submission:
    """A submission that asks for a fault."""
    return parse_submission(json.dumps({"account": "a", "fault": fault, "ref": ref} | fields).encode())


def test_a_job_is_refused_so_many_times_and_then_let_in() -> None:
    """Each job has its own count."""
    refusals = Refusals()
    answers = [refusals.refuses(asking("refuse-first", "one", times=2)) for _ in range(3)]
    assert answers == [True, True, False]
    assert refusals.refuses(asking("rate-limit", "other"))


def test_a_name_used_again_is_refused_again() -> None:
    """A job that was accepted is forgotten."""
    refusals = Refusals()
    answers = [refusals.refuses(asking("rate-limit", "one")) for _ in range(4)]
    assert answers == [True, False, True, False]


def test_some_are_always_refused_and_some_never() -> None:
    """`refuse` never ends; a fault of another kind is no refusal."""
    refusals = Refusals()
    assert all(refusals.refuses(asking("refuse", "one")) for _ in range(5))
    assert not refusals.refuses(asking("reject", "one"))


def test_the_jobs_remembered_are_bounded() -> None:
    """The oldest is forgotten, and then refused from the beginning again."""
    refusals = Refusals(limit=2)
    for name in ("one", "two", "three"):
        refusals.refuses(asking("refuse-first", name))
    assert not refusals.refuses(asking("refuse-first", "three"))
    assert refusals.refuses(asking("refuse-first", "one"))


def test_the_bomb_is_small_valid_and_inflates_to_its_size() -> None:
    """Gzip checks length and checksum."""
    bomb = gzip_bomb(8 * 1024 * 1024)
    assert len(bomb) < 20_000
    assert gzip.decompress(bomb) == bytes(8 * 1024 * 1024)


def test_a_forged_address_differs_in_its_token_only() -> None:
    """Same place, same length, another token."""
    right = "http://127.0.0.1:3000/callback/" + "t" * 43
    wrong = forged(right)
    assert wrong != right
    assert wrong.rpartition("/")[0] == right.rpartition("/")[0]
    assert len(wrong) == len(right)


def test_the_help_names_every_fault() -> None:
    """The text is made from the table."""
    lines = fault_list().splitlines()
    assert [name for name in FAULTS if not any(line.startswith(f"  {name} ") for line in lines)] == []


def test_the_command_line_has_the_documented_defaults() -> None:
    """Nothing given: the public job server's behaviour on 127.0.0.1:3002."""
    arguments = parse_arguments([])
    assert (arguments.host, arguments.port, arguments.options) == ("127.0.0.1", 3002, Options())


def test_the_command_line_sets_every_option() -> None:
    """Each option reaches its field."""
    given = "--port 0 --duration 2 --seed 3 --no-account-queue --callback-retries 4 --announce"
    arguments = parse_arguments(given.split())
    assert arguments.port == 0
    assert arguments.announce
    assert arguments.options == Options(duration_s=2, seed=3, account_queue=False, callback_retries=4)


@pytest.mark.parametrize(
    "given", ["--port 70000", "--duration -1", "--duration nan", "--callback-retries -1", "--seed x"]
)
def test_a_wrong_option_ends_with_code_2_and_names_itself(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By argparse."""
    with pytest.raises(SystemExit) as caught:
        parse_arguments(given.split())
    assert caught.value.code == 2
    assert given.split(maxsplit=1)[0] in capsys.readouterr().err


def test_the_listening_line_suits_its_reader() -> None:
    """JSON for a program, a sentence for a person."""
    url = "http://127.0.0.1:1/start"
    assert json.loads(listening_line(url, parse_arguments(["--announce"])))["listening"] == url
    assert "one connection at a time" in listening_line(url, parse_arguments([]))
    assert "at once" in listening_line(url, parse_arguments(["--no-account-queue"]))


def test_a_stand_in_says_why_its_callbacks_would_not_count() -> None:
    """It has neither the proxy's environment nor the URL in a job server's configuration."""
    openai, cog, baseten = map(loader.load, ("openai-background", "cog", "baseten"))
    assert list(caveats(openai, "", {})) == [
        "no callbacks are sent: --callback-url has to say where /callback/openai is",
        "callbacks are sent without their proof: OPENAI_WEBHOOK_SECRET is not set here",
    ]
    assert list(caveats(openai, "http://proxy/callback/openai", {"OPENAI_WEBHOOK_SECRET": "s"})) == []
    assert len(list(caveats(baseten, "", {}))) == 1
    assert list(caveats(cog, "", {})) == []
    mute = dataclasses.replace(cog, sample=tuple(one for one in cog.sample if one.expect != "succeeded"))
    assert list(caveats(mute, "", {})) == [
        "no callbacks are sent for jobs that have succeeded: the profile has no sample of one"
    ]
    unasked = dataclasses.replace(baseten, status=openai.status)
    assert [words for words in caveats(unasked, "", {"BASETEN_WEBHOOK_SECRET": "s"}) if "404" in words] == [
        f"status calls that find {state} are answered 404: the profile has no such sample of one"
        for state in ("progress", "succeeded", "failed")
    ]
