"""Listens, reports it, and serves until the process is stopped.

There is nothing to save and nothing to wait for, so stopping the server ends the process at once: `os._exit` leaves the
clean-up to the kernel.
"""

import asyncio
import gc
import json
import os
import resource
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

from aiohttp import web

from jobserver.app import create_app
from jobserver.cli import Arguments

#: Large, because a burst of submissions is a burst of connections.
_BACKLOG: Final = 4096
_STDIN: Final = 0


class CannotServeError(Exception):
    """The server cannot start; the message is for the person who started it."""


async def serve(arguments: Arguments) -> NoReturn:
    """Serve forever; raise CannotServeError if that is impossible."""
    _allow_many_connections()
    if arguments.exit_with_parent:
        _watch_parent()
    runner = web.AppRunner(_app(arguments), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = _site(runner, arguments)
        await site.start()
    except OSError as exc:
        await runner.cleanup()
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
        raise CannotServeError(f"cannot listen on {arguments.host}:{arguments.port}: {reason}") from exc
    host, port = runner.addresses[0][:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{'' if arguments.profile else '/start'}"
    gc.freeze()
    gc.enable()
    _say(listening_line(url, arguments))
    while True:
        await asyncio.get_running_loop().create_future()


def _app(arguments: Arguments) -> web.Application:
    if not arguments.profile:
        return create_app(arguments.options)
    from jobserver.stand_in import app as stand_in  # noqa: PLC0415 - imports modules that the own protocol does not need
    from jobserver.stand_in.callbacks import caveats  # noqa: PLC0415
    from shared.errors import SettingsError  # noqa: PLC0415
    from shared.job_server import loader  # noqa: PLC0415

    try:
        profile = loader.load(arguments.profile)
    except SettingsError as exc:
        raise CannotServeError(str(exc)) from exc
    for words in caveats(profile, arguments.callback_url):
        sys.stderr.write(f"warning: {words}\n")
    return stand_in.create_app(profile, duration_s=arguments.options.duration_s, fixed_url=arguments.callback_url)


def _site(runner: web.AppRunner, arguments: Arguments) -> web.BaseSite:
    if arguments.fd is not None:
        return web.SockSite(runner, socket.socket(fileno=arguments.fd), backlog=_BACKLOG)
    return web.TCPSite(runner, arguments.host, arguments.port, backlog=_BACKLOG)


def listening_line(url: str, arguments: Arguments) -> str:
    """Return what is printed once the server listens."""
    if arguments.announce:
        return json.dumps({"listening": url, "pid": os.getpid()})
    options = arguments.options
    if arguments.profile:
        return f"Stand-in for the job server of {arguments.profile} on {url} (a job takes {options.duration_s:g} s)"
    queue = "one connection at a time per account" if options.account_queue else "all connections at once"
    return f"Job server on {url} (a job takes {options.duration_s:g} s; {queue})"


def _say(line: str) -> None:
    # The server runs even if standard output is closed.
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Not allowed everywhere; otherwise fewer connections are possible.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _watch_parent() -> None:
    """Exit when standard input closes: the kernel closes it, however the parent dies."""
    try:
        asyncio.get_running_loop().add_reader(_STDIN, _leave_at_end_of_input)
    except OSError as exc:
        # epoll does not accept files or /dev/null.
        raise CannotServeError("--exit-with-parent needs a pipe as standard input") from exc


def _leave_at_end_of_input() -> None:
    with suppress(BlockingIOError):
        if not os.read(_STDIN, 4096):
            os._exit(0)
