"""An impossible start is one line on stderr and exit code 2, with `--check` and without; never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
from aiohttp import ClientSession

from proxy.run.preflight import LEAST_DESCRIPTORS
from tests.support.http import post_job
from tests.support.proxy_process import ROOT, ProxyProcess, environment
from tests.support.waiting import eventually_blocking

#: Refuses a system call from here on (seccomp(2)), like a container's profile, and then runs the program in its
#: arguments: allow, unless the number is the one in its first argument.
_WITHOUT: Final = """
import ctypes, errno, os, struct, sys
number = int(sys.argv[1])
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""

#: Starts the proxy, and leaves it as few descriptors as its argument says once its sockets and processes exist.
_LEFT: Final = """
import os, resource, sys
from proxy import __main__
from proxy.run import groundwork
lay = groundwork.lay_groundwork
def lay_and_limit(settings):
    laid = lay(settings)
    free = os.dup(2)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, free + left))
    return laid
left = int(sys.argv.pop())
groundwork.lay_groundwork = lay_and_limit
sys.exit(__main__.main())
"""

#: Starts the proxy with a database that cannot be used, while a thread still waits, as for a name server.
_WAITS: Final = """
import asyncio, sys, time
from proxy import __main__
from proxy.run import check, process
from shared.errors import SettingsError
async def away(*_):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 300)
    raise SettingsError("JOURNAL: away")
async def found(settings):
    return [] if await asyncio.gather(away(), return_exceptions=True) else None
process._open_store, check.journal_findings = away, found
sys.exit(__main__.main())
"""

both_ways = pytest.mark.parametrize("arguments", [(), ("--check",)], ids=["start", "check"])


def run(
    *command: str, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a start to its end."""
    return subprocess.run(
        command,
        env=environment() if env is None else env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=before,
    )


def the_line(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the only line of output."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def limited_to(descriptors: int) -> Callable[[], None]:
    """Return a function that limits the open files of a process before its program runs."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@both_ways
@pytest.mark.parametrize("module", ["_ctypes", "_ssl"])
def test_a_python_without_a_part_of_its_library(module: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Like one that was built without a library."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{module}'] = None\n", encoding="utf-8")
    ended = run(sys.executable, "run.py", *arguments, env=environment() | {"PYTHONPATH": str(tmp_path)})
    assert f"was built without {module}" in the_line(ended)


@both_ways
def test_a_package_that_is_not_installed(arguments: tuple[str, ...]) -> None:
    """The environment's interpreter without its packages: as outside the environment."""
    ended = run(sys.executable, "-S", "-m", "proxy", *arguments)
    line = the_line(ended)
    assert "is not installed for" in line
    assert "make run" in line


@both_ways
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("pidfd_open", 434),
        ("pidfd_send_signal", 424),
        ("eventfd2", 290),
        ("epoll_create1", 291),
        ("prlimit64", 302),
    ],
)
def test_a_kernel_without_a_system_call(call: str, number: int, arguments: tuple[str, ...]) -> None:
    """As under a seccomp profile that does not know the call."""
    ended = run(sys.executable, "-c", _WITHOUT, str(number), sys.executable, "run.py", *arguments)
    assert f"the system call {call} does not work here (Function not implemented)" in the_line(ended)


@both_ways
def test_a_limit_of_open_files_that_is_too_small(arguments: tuple[str, ...]) -> None:
    """Instead of a proxy that refuses every job."""
    line = the_line(run(sys.executable, "run.py", *arguments, before=limited_to(24)))
    assert "the limit of open files is 24" in line


@pytest.mark.parametrize("left", [0, 3, 7])
def test_no_descriptors_left_for_the_event_loop(left: int) -> None:
    """The event loop, uvloop's, would abort the process, could not be created, or not even be closed."""
    line = the_line(run(sys.executable, "-c", _LEFT, str(left)))
    assert line.startswith("error: cannot start: Too many open files; raise the limit of open files")


def test_a_start_that_failed_does_not_wait_for_its_threads() -> None:
    """A name server that does not answer is waited for, for a minute and more."""
    assert the_line(run(sys.executable, "-c", _WAITS)) == "error: JOURNAL: away"


def test_a_check_does_not_wait_for_its_threads() -> None:
    """As for a start."""
    assert run(sys.executable, "-c", _WAITS, "--check").returncode == 0


async def test_the_least_limit_of_open_files_is_enough_for_a_job(client: ClientSession) -> None:
    """What is not refused at the start works."""
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        env=environment(WORKER_SPARES="2", ADMIN_PORT=""),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited_to(LEAST_DESCRIPTORS),  # noqa: PLW1509 - no lock is held here
    )
    try:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["public"]
        assert (await post_job(client, f"{url}/queueJob")).status == 200
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.communicate()


@both_ways
def test_a_limit_of_processes_that_is_too_small(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Like a user's or a container's limit: no more threads can be started."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\n"
        "def refuse(*_args, **_options):\n"
        '    raise RuntimeError("can\'t start new thread")\n'
        "threading._start_new_thread = threading._start_joinable_thread = refuse\n",
        encoding="utf-8",
    )
    ended = run(sys.executable, "run.py", *arguments, env=environment() | {"PYTHONPATH": str(tmp_path)})
    assert "raise the limit of processes" in the_line(ended)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_closed_standard_streams_are_no_trouble(closed: tuple[int, ...]) -> None:
    """Some supervisors start programs so. Sockets would get these numbers, and uvloop would abort the process."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    settings = {} if closed == (0, 1, 2) else {"JOB_SERVER_URL": "http://127.0.0.1:9/"}  # once with the embedded one
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        env=environment(ADMIN_PORT="", **settings),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=close,  # noqa: PLW1509 - no lock is held here
    )
    try:
        eventually_blocking(lambda: process.poll() is not None or listens(process.pid))
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_an_output_that_nobody_reads_does_not_keep_the_proxy_from_serving() -> None:
    """A pipe that earlier starts have filled: the addresses are in the log, too."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65_536))
    os.set_blocking(writer, True)
    process = subprocess.Popen(
        [sys.executable, "run.py"],
        env=environment(JOB_SERVER_URL="http://127.0.0.1:9/", LOG_FORMAT="json"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert any('"listening"' in line for line in process.stderr)
        process.terminate()
        process.communicate()
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        for fd in (reader, writer):
            os.close(fd)


@pytest.mark.parametrize("arguments", [("--check",), ("--help",), ("--version",)], ids=lambda it: it[0])
def test_a_report_that_cannot_be_written_is_told(arguments: tuple[str, ...]) -> None:
    """An exit code of 0 would claim that the report was read."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [sys.executable, "run.py", *arguments],
            env=environment(JOB_SERVER_URL="http://127.0.0.1:9/"),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == "error: stdout cannot be written: No space left on device\n"


def test_a_python_that_is_told_not_to_look_where_its_script_is() -> None:
    """`python -P`, or PYTHONSAFEPATH: the packages are still found, also by the children."""
    ended = run(sys.executable, "-P", "run.py", "--check", env=environment(PYTHONSAFEPATH="1"))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_several_wrong_settings_are_told_at_once() -> None:
    """One line for each, so that they can all be fixed at once."""
    ended = run(sys.executable, "run.py", env=environment(MAX_JOBS="many", LOG_LEVEL="loud"))
    assert ended.returncode == 2
    assert [line.split(":")[1].strip() for line in ended.stderr.splitlines()] == ["MAX_JOBS", "LOG_LEVEL"]


def test_a_second_start_is_told_that_one_is_running(tmp_path: Path) -> None:
    """Everything that is taken, and the probable reason."""
    journal = str(tmp_path / "jobs.sqlite3")
    with ProxyProcess.started(JOURNAL=journal, JOB_SERVER_URL="http://127.0.0.1:9/") as proxy:
        ports = {"PORT": proxy.url.rpartition(":")[2], "ADMIN_PORT": proxy.admin.rpartition(":")[2]}
        ended = run(sys.executable, "run.py", env=environment(**ports, JOURNAL=journal))
        assert ended.returncode == 2
        assert [line.split(":")[1].strip() for line in ended.stderr.splitlines()[:3]] == [
            "HOST, PORT",
            "ADMIN_HOST, ADMIN_PORT",
            "JOURNAL",
        ]
        assert "another proxy may already be running" in ended.stderr.splitlines()[3]
        assert proxy.stop() == 0


def test_a_misspelt_variable_of_the_environment_is_one_warning() -> None:
    """It cannot be refused, but whoever set it should be told that it has no effect."""
    with ProxyProcess.started(API_KEY="k", JOB_TIMOUT="5", JOB_SERVER_URL="http://127.0.0.1:9/") as proxy:
        warnings = proxy.events_of("a variable of the environment looks like a misspelt setting")
        assert {line["variable"]: line["meant"] for line in warnings} == {
            "API_KEY": "API_KEYS",
            "JOB_TIMOUT": "JOB_TIMEOUT",
        }
        assert proxy.stop() == 0


def listens(pid: int) -> bool:
    """Return whether the process listens on a socket, according to /proc."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            inodes.add(str(fd.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return any(row.split()[3] == "0A" and row.split()[9] in inodes for row in rows)


class _WithoutListeners(ProxyProcess):
    """A proxy for whose listeners there is no descriptor once it has started."""

    PROGRAM = (
        sys.executable,
        "-c",
        dedent("""
            import asyncio, errno, sys
            from proxy import __main__
            async def start_server(*_, **__):
                raise OSError(errno.ENFILE, "Too many open files in system")
            asyncio.start_server = start_server
            sys.exit(__main__.main())
        """),
    )


def test_a_proxy_that_nobody_can_reach_says_so_and_ends() -> None:
    """A service manager starts it again then: it is not impossible that this will do."""
    with _WithoutListeners() as proxy:
        assert proxy.wait() == 1
        assert {line["reason"] for line in proxy.events_of("a listener failed")} == {"Too many open files in system"}
