"""What a start needs of Python, the kernel and the machine: problems are named, with the fix."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from proxy.run.preflight import LEAST_DESCRIPTORS, check, import_trouble, start_trouble
from shared.errors import SettingsError
from tests.support.proxy_process import ROOT

_RAISE_FILES: Final = "raise the limit of open files (ulimit -n, LimitNOFILE=, --ulimit nofile=)"
_RAISE_PROCESSES: Final = "raise the limit of processes (ulimit -u, TasksMax=, --pids-limit)"


def troubles(proc: Path = Path("/proc"), *, journal: str = "jobs.sqlite3") -> list[str]:
    """The lines of the error."""
    try:
        check(proc=proc, journal=journal)
    except SettingsError as exc:
        return str(exc).splitlines()
    return []


def test_nothing_is_missing_here() -> None:
    """The base case, which the other tests change."""
    assert troubles() == []


def test_without_proc_there_is_no_start(tmp_path: Path) -> None:
    """Processes are found there."""
    (line,) = troubles(tmp_path)
    assert line == f"{tmp_path} is not mounted; mount it (mount -t proc proc /proc)"


@pytest.mark.parametrize("name", ["_ctypes", "_sqlite3", "_ssl"])
def test_a_python_without_a_part_of_its_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package to build it."""
    monkeypatch.setitem(sys.modules, name, None)
    (line,) = troubles()
    assert line.startswith(f"the Python at {sys.executable} was built without {name}; use another (")
    assert "or rebuild it with lib" in line


def test_sqlite_is_needed_only_for_a_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, it is not needed."""
    monkeypatch.setitem(sys.modules, "_sqlite3", None)
    assert troubles(journal="") == []


def test_a_package_that_is_not_installed_is_named_with_the_way_to_install_it() -> None:
    """Most often it is the wrong interpreter."""
    assert import_trouble(ModuleNotFoundError("words", name="structlog.processors")) == (
        f"the package structlog is not installed for {sys.executable}; run `make run` once, or use the environment's "
        "own interpreter: .venv/bin/python run.py"
    )


def test_a_module_that_is_there_and_cannot_be_loaded_is_told_with_the_reason() -> None:
    """A library of the system, or memory, is missing."""
    reason = "libffi.so.8: cannot open shared object file: No such file or directory"
    assert import_trouble(ImportError(reason, name="_ctypes")).endswith(f"cannot load _ctypes: {reason}")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_pidfd_open_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too old, or a seccomp profile is."""

    def refuse(_pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    (line,) = troubles()
    assert line.startswith(f"the system call pidfd_open does not work here ({os.strerror(number)}): Linux 5.3 or newer")


def test_a_python_that_was_built_without_pidfd_open_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the kernel has it."""
    monkeypatch.delattr(os, "pidfd_open")
    (line,) = troubles()
    assert line.startswith("this Python was built without pidfd_open")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (24, [f"the limit of open files is 24, at least {LEAST_DESCRIPTORS} are needed; raise it"]),
        (LEAST_DESCRIPTORS, []),
        (resource.RLIM_INFINITY, []),
    ],
)
def test_too_few_descriptors_are_told(limit: int, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hard limit counts, because the soft one is raised to it."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert [line.partition(" (")[0] for line in troubles()] == said


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each."""
    monkeypatch.setitem(sys.modules, "_ssl", None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (24, 24))
    assert len(troubles(tmp_path)) == 3


@pytest.mark.parametrize(
    ("exc", "line"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            f"cannot start: Too many open files; {_RAISE_FILES}",
        ),
        (
            BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
            f"cannot start: Resource temporarily unavailable; {_RAISE_PROCESSES}",
        ),
        (
            RuntimeError("can't start new thread"),
            f"cannot start: no more threads can be started; {_RAISE_PROCESSES}",
        ),
        (MemoryError(), "cannot start: out of memory; give it more memory"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/null"),
            "cannot start: No such file or directory: /dev/null",
        ),
        (RuntimeError("dictionary changed size during iteration"), ""),
    ],
)
def test_what_stands_against_a_start_is_one_line_with_the_remedy(
    exc: OSError | RuntimeError | MemoryError, line: str
) -> None:
    """Except for a bug of ours: its traceback is useful."""
    assert start_trouble(exc) == line


def test_the_driver_is_needed_only_for_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is named, before anything else is loaded."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert troubles() == []
    (line,) = troubles(journal="postgresql://h/db")
    assert line.startswith(f"the package psycopg is not installed for {sys.executable}; run `make run` once")


def test_a_start_without_a_database_loads_nothing_of_its_driver() -> None:
    """That would take time and memory."""
    program = (
        "import sys, proxy.run.process, proxy.run.wiring, proxy.run.check, worker.main\n"
        "sys.exit('psycopg' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
