"""Checks what a start needs from Python, the kernel and the machine, before anything that needs it is loaded.

Each problem is one line that names the cause and the fix. `--check` checks the same.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.database_url import is_database
from shared.errors import SettingsError

__all__ = [
    "LEAST_DESCRIPTORS",
    "check",
    "import_trouble",
    "no_traceback",
    "open_standard_streams",
    "say",
    "start_trouble",
    "try_descriptors",
    "unblock_signals",
]

#: The descriptors that the front end needs to serve one job: its own, those that must stay free, and the job's.
LEAST_DESCRIPTORS: Final = 128
#: How many of them the event loop needs at once, and some more.
_LOOP_DESCRIPTORS: Final = 16
#: Parts of the standard library that an interpreter may have been built without, and the packages to build them.
_LIBRARIES: Final = {
    "_ctypes": "libffi-dev",
    "_sqlite3": "libsqlite3-dev",
    "_ssl": "libssl-dev",
    "_hashlib": "libssl-dev",
    "zlib": "zlib1g-dev",
}
_NEEDED: Final = ("_ctypes", "_ssl")
_REMEDIES: Final = {
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE=, --ulimit nofile=)",
    errno.ENFILE: "raise the machine's limit of open files (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, TasksMax=, --pids-limit)",
    errno.ENOMEM: "give it more memory",
    errno.ENOSYS: "the kernel is too old, or a seccomp profile forbids a system call; Linux 5.3 or newer is needed",
    errno.EPERM: "a seccomp profile or a security module forbids a system call",
    errno.ENOSPC: "free some disk space",
}


def check(*, journal: str, proc: Path = Path("/proc")) -> None:
    """Check what a start needs; `journal`: the setting JOURNAL, which says whether SQLite or a driver is needed.

    Raises:
        SettingsError: a start is impossible; the message has a line for each problem.
    """
    troubles = [*_platform(), *_modules(journal), *_mounted(proc), *_system_calls(), *_descriptors()]
    if troubles:
        raise SettingsError("\n".join(troubles))


def _platform() -> Iterator[str]:
    system = os.uname().sysname
    if system != "Linux":
        yield f"the proxy runs on Linux only; this is {system}"


def _modules(journal: str) -> Iterator[str]:
    driver = "psycopg" if is_database(journal) else "_sqlite3"
    for name in [*_NEEDED, *([driver] if journal else [])]:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            yield import_trouble(exc)


def _mounted(proc: Path) -> Iterator[str]:
    if not (proc / "self" / "stat").exists():
        yield f"{proc} is not mounted; mount it (mount -t proc proc /proc)"


def _system_calls() -> Iterator[str]:
    """Try those that seccomp profiles forbid: two of the event loop's, and those for processes."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        yield "this Python was built without pidfd_open; use one that was built on Linux 5.3 or newer"
        return
    call = "eventfd2"
    try:
        os.close(os.eventfd(0))
        call = "epoll_create1"
        select.epoll().close()
        call = "pidfd_open"
        pidfd = os.pidfd_open(os.getpid())
        call = "pidfd_send_signal"
        try:
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
    except OSError as exc:
        yield _refused(call, exc)


def _refused(call: str, exc: OSError) -> str:
    return (
        f"the system call {call} does not work here ({os.strerror(exc.errno or 0)}): Linux 5.3 or newer is needed, "
        "and a seccomp profile that allows it (a current container runtime's does)"
    )


def _descriptors() -> Iterator[str]:
    try:
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as exc:
        yield _refused("prlimit64", exc)
        return
    if limit != resource.RLIM_INFINITY and limit < LEAST_DESCRIPTORS:
        yield (
            f"the limit of open files is {limit}, at least {LEAST_DESCRIPTORS} are needed; "
            "raise it (ulimit -n, LimitNOFILE=, --ulimit nofile=)"
        )


def try_descriptors() -> None:
    """Raise OSError if so few descriptors are left that uvloop would abort the process, or get stuck."""
    for fd in [os.dup(2) for _ in range(_LOOP_DESCRIPTORS)]:
        os.close(fd)


def open_standard_streams() -> None:
    """Open the descriptors 0 to 2 if they are closed.

    Otherwise sockets would get these numbers, and uvloop aborts the process when it closes such a socket.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr's number
        os.set_inheritable(fd, True)  # noqa: FBT003 - its only argument
    os.close(fd)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(
                errors="backslashreplace"
            )  # a path may have characters that its encoding lacks


def unblock_signals() -> None:
    """Let every signal reach this process and those that it starts: the parent may have blocked some.

    Without SIGCHLD, for example, the fork server would reap no worker.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def import_trouble(exc: ImportError) -> str:
    """Return the one-line error for a module that cannot be imported."""
    root = (exc.name or str(exc)).partition(".")[0]
    if root not in sys.stdlib_module_names:
        return (
            f"the package {root} is not installed for {sys.executable}; run `make run` once, or use the environment's "
            "own interpreter: .venv/bin/python run.py"
        )
    if not isinstance(exc, ModuleNotFoundError):  # it exists; a library that it needs, or memory, is missing
        return f"the Python at {sys.executable} cannot load {root}: {' '.join(str(exc).split())}"
    library = f", or rebuild it with {_LIBRARIES[root]}" if root in _LIBRARIES else ""
    return f"the Python at {sys.executable} was built without {root}; use another (make PYTHON=python3.13 run){library}"


def say(text: str) -> None:
    """Print `text`. Raises SettingsError if it cannot be written, BrokenPipeError if nobody reads it."""
    try:
        print(text, flush=True)  # noqa: T201 - the output of a command line program
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise the interpreter would fail again at exit
        if isinstance(exc, BrokenPipeError):
            raise
        raise SettingsError(f"stdout cannot be written: {exc.strerror}") from exc


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """Raise SettingsError for an environmental problem that prevents a start; re-raise bugs of ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError, MemoryError) as exc:
        if words := start_trouble(exc):
            raise SettingsError(words) from exc
        raise


def start_trouble(exc: OSError | RuntimeError | MemoryError) -> str:
    """Return the one-line error for an environmental problem that prevents a start; empty for a bug of ours."""
    match exc:
        case OSError():
            number = exc.errno or 0
            where = f": {exc.filename}" if exc.filename else ""
            words = f"{exc.strerror or type(exc).__name__}{where}"
        case MemoryError():
            number, words = errno.ENOMEM, "out of memory"
        case RuntimeError() if "start new thread" in str(exc):
            number, words = errno.EAGAIN, "no more threads can be started"
        case _:
            return ""
    remedy = _REMEDIES.get(number, "")
    return f"cannot start: {words}" + (f"; {remedy}" if remedy else "")
