"""What the fork server does to its own process before the first fork, each in its own interpreter."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from shared import strict_json
from shared.job_server import loader
from shared.messages import Fork, Forked, decode_from_fork_server, encode
from shared.worker_config import JobServer, WorkerConfig
from tests.support.waiting import IN_VAIN_S
from worker.before_fork import immortal

_ROOT = Path(__file__).parents[3]
_CAN_BE_IMMORTAL = sys.version_info[:2] in immortal.VERSIONS


def _run(code: str, python: str = sys.executable, environment: dict[str, str] | None = None) -> object:
    """Run `code` and return its JSON output."""
    done = subprocess.run(
        [python, "-c", dedent(code)],
        capture_output=True,
        timeout=IN_VAIN_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(_ROOT)} | (environment or {}),
    )
    assert done.returncode == 0, done.stderr.decode()
    return strict_json.loads(done.stdout)


_IMMORTAL = """
    import gc, sys
    from worker.before_fork.immortal import make_immortal

    class Old: pass
    old, words = Old(), "".join(["a string ", "that is not interned"])
    held = [words]
    made = make_immortal()
    def counts(): return sys.getrefcount(old), sys.getrefcount(Old), sys.getrefcount(sys), sys.getrefcount(held)
    before = counts()
    more = [old, Old, sys, held] * 10
    after = counts()
    one = Old()
    new, text = sys.getrefcount(one), sys.getrefcount(words)
    several = [one, words] * 10
    print(__import__("json").dumps(
        [made > 1000, before == after, sys.getrefcount(one) - new, sys.getrefcount(words) - text]
    ))
    """


def test_an_object_that_was_there_is_not_counted_any_more() -> None:
    """Another reference changes nothing in it; strings and later objects are counted as usual."""
    assert _run(_IMMORTAL) == [_CAN_BE_IMMORTAL, _CAN_BE_IMMORTAL, 10, 10]


@pytest.mark.parametrize("version", immortal.VERSIONS, ids=str)
def test_every_version_that_makes_objects_immortal_is_tried(version: tuple[int, int]) -> None:
    """Whichever version is on this machine: the list contains only versions that were run."""
    number = "{}.{}".format(*version)
    environment = {"PYENV_VERSION": number}  # pyenv's python3.12 only runs if it is asked for
    python = shutil.which(f"python{number}")
    if python is None or subprocess.run([python, "-V"], check=False, env=os.environ | environment).returncode:
        pytest.skip("not on this machine")
    assert _run(_IMMORTAL, python, environment) == [True, True, 10, 10]


@pytest.mark.parametrize(
    "changed",
    ["immortal._count = lambda thing: 1234", "immortal.VERSIONS = ((3, 10),)", "sys.implementation.name = 'pypy'"],
)
def test_where_an_interpreter_is_not_known_nothing_is_done(changed: str) -> None:
    """An interpreter that counts references to None, an untried version, another implementation: nothing is written."""
    assert (
        _run(
            f"""
            import sys
            from worker.before_fork import immortal
            {changed}
            print(immortal.make_immortal())
            """
        )
        == 0
    )


def test_modules_of_the_standard_library_run_nothing_after_a_fork() -> None:
    """The standard library's own; what others register is run, and a child's threads still work."""
    assert _run(
        """
        import json, os, sys
        from worker.before_fork.loading import load_without_fork_handlers

        registered, register = [], os.register_at_fork
        os.register_at_fork = lambda **_: registered.append(sys._getframe(1).f_globals["__name__"])
        load_without_fork_handlers()
        os.register_at_fork()
        os.register_at_fork = register
        import threading
        pid = os.fork()
        if pid == 0:
            done = []
            thread = threading.Thread(target=done.append, args=(1,))
            thread.start()
            thread.join()
            os._exit(len(done))
        print(json.dumps([registered, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
        """
    ) == [["__main__"], 1]


def test_of_aiohttp_only_what_reads_replies_is_loaded() -> None:
    """The session would load the system's certificates, and each module makes a start and every fork more expensive."""
    assert _run(
        """
        import json, sys
        from worker.before_fork.loading import leave_out

        leave_out(tls=False)
        import worker.fork_server
        print(json.dumps([f"aiohttp.{name}" in sys.modules for name in ("http_parser", "client", "connector", "web")]))
        """
    ) == [True, False, False, False]


def test_a_worker_maps_no_library_that_it_has_no_use_for() -> None:
    """Neither TLS, where it is not used, nor libraries that it never calls: a fork copies all mappings."""
    config = WorkerConfig(
        job_servers=(JobServer(url="http://127.0.0.1:9/", profile=loader.load("spreedly")),),
        max_body_bytes=1000,
        submit_retries=0,
        lost_reply_wait_s=1,
        max_jobs=1,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(IN_VAIN_S)
        with theirs:
            ours.send(config.encode())
            command = [sys.executable, "-m", "worker", str(theirs.fileno())]
            # Where coverage is measured, it would load its own libraries.
            plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
            fork_server = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=_ROOT, env=plain)
        ours.send(encode(Fork(workers=1)))
        data, fds, _, _ = socket.recv_fds(ours, 65_536, 3)
        forked = decode_from_fork_server(data)
        assert isinstance(forked, Forked)
        maps = Path(f"/proc/{forked.pids[0]}/maps").read_text(encoding="utf-8")
        for fd in fds:
            os.close(fd)
    fork_server.wait(IN_VAIN_S)
    mapped = {Path(line.split()[-1]).name.partition(".")[0] for line in maps.splitlines()}
    assert "_http_parser" in mapped
    unused = {
        "_ssl",
        "libssl",
        "libcrypto",
        "_bz2",
        "_lzma",
        "_uuid",
        "grp",
        "_frozenlist",
        "_http_writer",
        "mask",
        "reader_c",
    }
    assert not mapped & unused


def test_new_objects_lie_together_whatever_was_freed_before() -> None:
    """A hundred objects of many sizes touch few pages, though imports left holes everywhere."""
    assert _run(
        """
        from worker.before_fork.holes import fill_holes

        def pages(): return len({id(thing) >> 12 for thing in [bytes(30 * n % 400) for n in range(100)]})
        loaded = [bytes(30 * n % 400) for n in range(6_000)]
        del loaded[::7]
        with_holes = pages()
        fill_holes()
        print(int(with_holes > 45 and pages() < 35))
        """
    )


def test_the_kernel_wakes_the_fork_server_and_gives_it_no_huge_pages_and_no_preemption() -> None:
    """The kernel says that the requests have been applied."""
    assert _run(
        """
        import ctypes, json, os, signal
        from worker.kernel import ask_kernel

        ask_kernel()
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))
        status = open("/proc/self/status").read()
        score = int(open("/proc/self/oom_score_adj").read())
        batch = os.sched_getscheduler(0) == os.SCHED_BATCH
        print(json.dumps([number.value == signal.SIGCONT, "THP_enabled:\\t0" in status, score, batch]))
        """
    ) == [True, True, 500, True]
