"""`python -m proxy`: settings, log, embedded job server if none is configured, serve, drain.

Anything that a start needs may be missing, even parts of Python. So this file imports other modules only where it can
report a failure in one line.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from shared.settings import Settings

_ENV_FILE: Final = Path(__file__).resolve().parent.parent / ".env"
_IMPOSSIBLE: Final = 2
#: As in shells, for SIGINT and for SIGPIPE.
_INTERRUPTED: Final = 130
_NOT_READ: Final = 141


def main() -> int:
    """Run the proxy until it is stopped, or whatever else the command line asks for; return the exit code."""
    from proxy.run import preflight  # noqa: PLC0415 - see above
    from shared.errors import SettingsError  # noqa: PLC0415

    try:
        preflight.open_standard_streams()
        preflight.unblock_signals()
        return _run(sys.argv[1:])
    except SettingsError as exc:
        return _impossible(str(exc))
    except ImportError as exc:
        return _impossible(preflight.import_trouble(exc))
    except BrokenPipeError:
        return _NOT_READ
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(arguments: list[str]) -> int:
    from proxy.run import preflight  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    if arguments[:1] == ["jobs"]:
        from proxy.run import jobs_command  # noqa: PLC0415 - as below

        return jobs_command.main(arguments[1:], lambda: load(env_file=_ENV_FILE))
    check = False
    if arguments:
        from proxy.run import cli  # noqa: PLC0415 - a plain start has no use for it

        given = cli.parse(arguments)
        if given.text:
            preflight.say(given.text)
            return 0
        check = given.check
    settings = load(env_file=_ENV_FILE)
    preflight.check(journal=settings.journal)
    if check:
        _check(settings)
    return _serve(settings)


def _check(settings: Settings) -> NoReturn:
    gc.disable()  # the process ends before its garbage matters
    import asyncio  # noqa: PLC0415

    from proxy.run import preflight  # noqa: PLC0415
    from proxy.run.check import Check  # noqa: PLC0415

    with preflight.no_traceback(), asyncio.Runner() as runner:
        os._exit(runner.run(Check(settings, preflight.say).run()))  # a thread may wait for a name server, as below


def _serve(settings: Settings) -> int:
    gc.disable()  # until everything is loaded and stays: FrontEnd enables it
    from proxy.run import preflight  # noqa: PLC0415
    from proxy.run.groundwork import lay_groundwork  # noqa: PLC0415

    with preflight.no_traceback():
        groundwork = lay_groundwork(settings)
        preflight.try_descriptors()

    import asyncio  # noqa: PLC0415

    from proxy.run.event_loop import EventLoop  # noqa: PLC0415 - while the started processes load
    from proxy.run.process import FrontEnd  # noqa: PLC0415
    from shared.errors import SettingsError  # noqa: PLC0415
    from shared.settings import given, load  # noqa: PLC0415

    front_end = FrontEnd(groundwork, lambda: load(env_file=_ENV_FILE), given(env_file=_ENV_FILE))
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        try:
            runner.run(front_end.run())
        except SettingsError as exc:
            code = _impossible(str(exc))
            front_end.abandon()
            os._exit(code)  # a thread may wait for a name server, for a minute and more
    return 0


def _impossible(reasons: str) -> int:
    """Print why the proxy cannot start, one line for each reason, whatever encoding stderr has."""
    lines = "".join(f"error: {line}\n" for line in reasons.splitlines())
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(2, lines.encode("utf-8", "backslashreplace"))
    return _IMPOSSIBLE


if __name__ == "__main__":
    sys.exit(main())
