"""The command line of the proxy. It has few options, as settings are environment variables; `--help` lists them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.settings import variables
from shared.version import VERSION, commit

__all__ = ["Arguments", "parse", "settings_list"]

_ABOUT: Final = """\
The async job proxy: accepts jobs over HTTP, submits them to a job server that answers by callback, and
returns each result in the answer to the same request. SIGTERM or Ctrl-C stops it once the jobs in flight are
finished; a second one stops it at once. `python run.py jobs --help`: list the jobs that the journal remembers.
"""
_END: Final = """
.env and docs/settings.md say what each of them does; change them in .env.

exit status: 0 stopped, or everything works; 1 --check found a problem; 2 the proxy cannot start: a setting is
invalid, an address or the journal is in use, or Python or the machine lacks something
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The parsed command line."""

    #: Try everything that a start needs, report, and exit.
    check: bool
    #: What to print instead of running; empty: nothing.
    text: str


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line; end with code 2 and a line on stderr if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python run.py",
        description=_ABOUT,
        epilog=settings_list() + "\n" + _END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,  # argparse would print it and exit without checking whether that worked
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help and exit")
    parser.add_argument("--profiles", action="store_true", help="list the profiles that PROFILE can name, and exit")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument(
        "--check",
        action="store_true",
        help="validate the settings, bind, connect to the job server, start a worker, report, and exit",
    )
    given = parser.parse_args(argv)
    return Arguments(check=given.check, text=_text(parser, given).rstrip("\n"))


def _text(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    if given.help:
        return parser.format_help()
    if given.version:
        checked_out = commit()
        return f"async-job-proxy {VERSION}" + (f", commit {checked_out}" if checked_out else "")
    if given.profiles:
        from proxy.run.profile_report import list_of_profiles  # noqa: PLC0415 - reads every profile

        return list_of_profiles()
    return ""


def settings_list() -> str:
    """Return every setting with its default and its values, as text."""
    lines = ["settings, from the environment or .env:"]
    lines += [f"  {name:<20} {it.default or '(empty)':<13} {it.takes}" for name, it in variables().items()]
    return "\n".join(lines)
