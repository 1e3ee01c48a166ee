"""The job server as a process: how it starts, says where it is, and exits."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.stopwatch import Stopwatch
from tests.support.waiting import IN_VAIN_S, eventually_blocking

COMMAND = (sys.executable, "-m", "jobserver", "--port", "0")
#: The program, which also says, once it listens, whether garbage is collected.
_TELLS = """
import gc
from jobserver import serve
from jobserver.__main__ import main
serve.listening_line = lambda *_: f"garbage is collected: {gc.isenabled()}, frozen: {gc.get_freeze_count() > 0}"
main()
"""


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job server on pipes; killed at the end if it has not exited."""
    process = subprocess.Popen(
        [*COMMAND, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[bytes]) -> str:
    """Return what it prints once it listens."""
    assert process.stdout is not None
    return process.stdout.readline().decode()


def ended_within_a_second(process: subprocess.Popen[bytes]) -> int:
    """Return its exit code; fail if it takes longer although it had CPU time."""
    eventually_blocking(lambda: process.poll() is not None, 1, Stopwatch(process.pid))
    return process.wait()


def test_it_announces_where_it_listens_and_leaves_with_its_parent() -> None:
    """One line of JSON; it exits when its standard input ends."""
    with running("--announce", "--exit-with-parent", "--duration", "0") as process:
        announced = json.loads(first_line(process))
        assert announced["pid"] == process.pid
        request = urllib.request.Request(announced["listening"], data=b'{"account": "a"}')  # noqa: S310
        with urllib.request.urlopen(request, timeout=IN_VAIN_S) as response:  # noqa: S310
            assert json.load(response)["state"] == "completed"
        assert process.stdin is not None
        process.stdin.close()
        assert ended_within_a_second(process) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_garbage_is_collected_when_everything_is_loaded() -> None:
    """Until then it would only take time, and what is loaded stays."""
    with subprocess.Popen([sys.executable, "-c", _TELLS, "--port", "0"], stdout=subprocess.PIPE) as process:
        try:
            assert first_line(process) == "garbage is collected: True, frozen: True\n"
        finally:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_quietly(signum: signal.Signals) -> None:
    """Exit code 0, nothing on stderr; the text for people names the address."""
    with running() as process:
        assert "http://127.0.0.1:" in first_line(process)
        process.send_signal(signum)
        assert ended_within_a_second(process) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_taken_port_gives_one_clear_line() -> None:
    """Exit code 2, with the address in the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run([*COMMAND, "--port", str(port)], capture_output=True, timeout=IN_VAIN_S, check=False)
    assert ended.returncode == 2
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_leaving_with_the_parent_needs_a_pipe() -> None:
    """A standard input that cannot be watched is refused instead of ignored."""
    ended = subprocess.run(
        [*COMMAND, "--exit-with-parent"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=IN_VAIN_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "pipe" in ended.stderr.decode()


def test_it_leaves_when_its_parent_is_killed() -> None:
    """A parent without a chance to clean up leaves no job server behind."""
    parent = f"""
import subprocess
command = {[*COMMAND, "--announce", "--exit-with-parent"]!r}
subprocess.Popen(command, stdin=subprocess.PIPE).wait()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        announced = json.loads(first_line(process))
        assert announced["pid"] != process.pid
        process.kill()
        # Both processes hold this pipe: it ends when both have gone.
        assert process.communicate(timeout=IN_VAIN_S)[0] == b""
