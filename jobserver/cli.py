"""The command line of the job server."""

import argparse
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from jobserver.faults import FAULTS
from jobserver.options import Options
from jobserver.stand_in.wishes import WISHES

_ABOUT = """\
A job server with the protocol of the real one:

  POST /start {"account": "example", "wait": true}
      keeps the connection until the job is done and answers with the result
  POST /start {"account": "example", "wait": false, "callback": "http://..."}
      answers at once and later sends the result to the callback

  GET /ledger, GET /ledger?last=10    every submission and callback so far
  GET /ledger/summary                 the counts
  DELETE /ledger                      forget them
"""

_FIELDS = """\
further fields of a job:
  duration     seconds the job takes
  fault        what goes wrong: one of the names below
  ref          your own name for the job; the ledger shows it

with a fault, where it says so or as given here:
  delay        seconds
  times        how often
  bytes        how large
  status       which status
  retry_after  the value of the Retry-After header (0)
  run          true or false: whether the job runs; overrides the fault

Faults of the callback need `"wait": false`. A connection that hangs blocks its account: give such jobs
an account of their own.

faults:
"""


_DEFAULTS = Options()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The parsed command line."""

    host: str
    #: 0: any free port.
    port: int
    #: A listening socket that is inherited; None: bind one.
    fd: int | None
    #: Exit when standard input ends.
    exit_with_parent: bool
    #: Simulate the job server of this profile; empty: the project's own protocol.
    profile: str
    #: The callback URL for jobs that have none.
    callback_url: str
    #: Announce where the server listens for a program, not for a person.
    announce: bool
    options: Options


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Parse the command line; exit with code 2 and a line on stderr if it is invalid."""
    given = _parser().parse_args(argv)
    return Arguments(
        host=given.host,
        port=given.port,
        fd=given.fd,
        exit_with_parent=given.exit_with_parent,
        profile=given.profile,
        callback_url=given.callback_url,
        announce=given.announce,
        options=Options(
            duration_s=given.duration,
            account_queue=given.account_queue,
            seed=given.seed,
            callback_retries=given.callback_retries,
            shows_ledger=not given.hide_ledger,
        ),
    )


def wish_list() -> str:
    """Return the table of wishes as text."""
    width = max(map(len, WISHES)) + 2
    rows = [f"  {wish:<{width}}{words}" for wish, words in WISHES.items()]
    return "\n".join(
        ["", "", "with --profile, a job says by stand-in=WISH, anywhere in its body, what is to happen:", *rows]
    )


def fault_list() -> str:
    """Return the table of faults as text."""
    width = max(map(len, FAULTS)) + 2
    rows = (
        textwrap.fill(
            fault.summary,
            width=100,
            initial_indent=f"  {name:<{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name, fault in FAULTS.items()
    )
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobserver",
        description=_ABOUT,
        epilog=_FIELDS + fault_list() + wish_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    add("--port", type=port, default=3002, help="the port; 0: any free one (3002)")
    add(
        "--duration",
        type=seconds,
        default=_DEFAULTS.duration_s,
        metavar="SECONDS",
        help="how long a job takes (%(default)s)",
    )
    add(
        "--profile",
        default="",
        metavar="NAME",
        help="simulate the job server of a profile: a file's name in profiles/, or the path of a .toml file",
    )
    add(
        "--callback-url",
        default="",
        metavar="URL",
        help="the callback URL, if the profile's job server has it in its configuration",
    )
    add("--seed", type=int, metavar="N", help="make ids and proofs repeatable")
    add(
        "--no-account-queue",
        dest="account_queue",
        action="store_false",
        help="serve all connections of an account at once, not one at a time",
    )
    add(
        "--callback-retries",
        type=count,
        default=_DEFAULTS.callback_retries,
        metavar="N",
        help="retry a callback that got no 2xx up to N times, 0.2 s apart (%(default)s)",
    )
    add(
        "--hide-ledger",
        action="store_true",
        help="show only the ledger's counts, without callback URLs",
    )
    add(
        "--fd",
        type=int,
        metavar="N",
        help="serve on the listening socket inherited as descriptor N instead of --host and --port",
    )
    add(
        "--exit-with-parent",
        action="store_true",
        help="exit when standard input ends; it must be a pipe from the parent",
    )
    add(
        "--announce",
        action="store_true",
        help='when listening, print one line of JSON: {"listening": URL, "pid": PID}',
    )
    return parser


def port(text: str) -> int:
    """A TCP port; the names of these three functions appear in argparse's messages."""
    number = int(text)
    if not 0 <= number <= 65535:  # noqa: PLR2004 - the range of TCP ports
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return number


def seconds(text: str) -> float:
    """A duration."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return number


def count(text: str) -> int:
    """A number of times."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a count, 0 or more")
    return number
