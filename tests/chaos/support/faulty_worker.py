# ruff: noqa: SLF001 - it reaches into the internals that it breaks
"""`python -m tests.chaos.support.faulty_worker FD`: the real fork server, whose workers break when a job asks for it.

A job asks with its member `chaos`, as in `{"account": "x", "chaos": "sigkill@p3"}`; with `sigkill@p1*2`, only the
first two workers that have the job do it. The phases are those of the fault matrix: p1 the worker has the job, p2 the
submission was sent, p3 the reply was read, p4 the callback is there, p5 half of the result is written, p6 all of it is.
Every act is noted, with its time, in the file CHAOS_LOG.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from worker.before_fork.loading import leave_out

if __name__ == "__main__":  # as in worker/__main__.py, but here the imports come first
    leave_out(tls=os.environ.get("WORKER_MAX_JOBS", "1") == "1")

from shared.job_server.submissions import Submissions
from shared.lifecycle import Event
from shared.messages import Answered, Assign, FromWorker, Progress, encode
from tests.chaos.support.clock import follow_clock
from tests.chaos.support.names import semaphore_prefix, starved_name
from tests.support.proc_files import read
from worker import __main__ as entry
from worker import fork_server, main

#: This long after the connection was made, the submission has certainly been written.
_SENT_S: Final = 0.15
_LENGTH: Final = struct.Struct("!i")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    act: str
    phase: str
    ref: str
    #: How many workers do it, one after the other.
    times: int = 1_000


class _Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['CHAOS_DIR']}/unpickled",)


_plan = _Plan(act="", phase="", ref="")
_worker: Any = None


def _note(**more: object) -> None:
    line = json.dumps(
        {"ref": _plan.ref, "act": _plan.act, "phase": _plan.phase, "at": time.monotonic(), "pid": os.getpid(), **more}
    )
    fd = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def _note_starved() -> None:
    """Leave behind how long this process waited for CPU time (proc(5), schedstat): after its end, nobody can tell."""
    queued_ns = int(read("/proc/self/schedstat").split()[1])
    path = f"{os.environ['CHAOS_DIR']}/{starved_name(_plan.ref)}"
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)  # cheaper than a Path in a process this new
    os.write(fd, str(queued_ns / 1e9).encode())
    os.close(fd)


# --- the acts --------------------------------------------------------------------------------------------------------


def _signal_itself(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _leave(code: int) -> Callable[[], None]:
    return lambda: os._exit(code)


def _run_out_of_memory() -> NoReturn:
    """Grow until an allocation fails, under a memory limit like a container's, for this process alone."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024 * 1024,) * 2)
    hoard = []
    while True:
        hoard.append(bytearray(1024 * 1024))


def _raw(data: bytes) -> None:
    fd = _worker._outbox.fileno()
    os.set_blocking(fd, True)
    while data:
        data = data[os.write(fd, data) :]


def _send_oversize() -> None:
    """Announce, and begin to send, more than the limit."""
    with contextlib.suppress(OSError):
        _raw(_LENGTH.pack(64 * 1024 * 1024) + b"x" * 65_536)
    time.sleep(60)


def _send_truncated() -> None:
    """Write the beginning of a result and exit."""
    _raw(_LENGTH.pack(1000) + b'["Answered"')
    os._exit(0)


def _send_pickle() -> None:
    payload = pickle.dumps(_Evil())
    _raw(_LENGTH.pack(len(payload)) + payload)
    time.sleep(60)


def _raise() -> NoReturn:
    """Raise an unhandled exception."""
    raise ZeroDivisionError


def _send_nonsense() -> None:
    """Report that the job was connected twice, which is impossible."""
    payload = encode(Progress(job_id=_plan.ref, event=Event.ASSIGN))
    _raw(_LENGTH.pack(len(payload)) + payload[:-3] + b"\xff\xfe]")
    time.sleep(60)


def _have_child() -> None:
    """Start a child that ignores SIGTERM, and ignore it in this process as well."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid = os.fork()
    if not pid:
        os.execv("/bin/sleep", ["sleep", "60"])  # noqa: S606 - there is no shell to want
    _note(child=pid)


def _ignore_term() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _resolve_nothing(*_args: object, **_kwargs: object) -> NoReturn:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _resolve_for_ever(*_args: object, **_kwargs: object) -> NoReturn:
    while True:
        time.sleep(60)


def _break_resolver(how: Callable[..., NoReturn]) -> Callable[[], None]:
    return lambda: setattr(socket, "getaddrinfo", how)


_ACTS: Final[dict[str, Callable[[], None]]] = {
    "sigkill": _signal_itself(signal.SIGKILL),
    "sigsegv": _signal_itself(signal.SIGSEGV),
    "sigstop": _signal_itself(signal.SIGSTOP),
    "exit0": _leave(0),
    "exit1": _leave(1),
    "memory": _run_out_of_memory,
    "oversize": _send_oversize,
    "truncated": _send_truncated,
    "pickle": _send_pickle,
    "nonsense": _send_nonsense,
    "bug": _raise,
    "child": _have_child,
    "ignore-term": _ignore_term,
    "dns-fails": _break_resolver(_resolve_nothing),
    "dns-hangs": _break_resolver(_resolve_for_ever),
    "note": lambda: None,
    "measure": lambda: None,
}


def _has_its_turn() -> bool:
    """Return whether fewer workers than planned have done it so far."""
    if _plan.times >= 1_000:
        return True
    for n in range(_plan.times):
        with contextlib.suppress(FileExistsError):
            Path(os.environ["CHAOS_DIR"], f"did-{_plan.ref}-{n}").touch(exist_ok=False)
            return True
    return False


def _act(phase: str) -> None:
    if _plan.phase == phase and _has_its_turn():
        _note()
        for act in _plan.act.split("+"):
            _ACTS[act]()


# --- where they hook in ----------------------------------------------------------------------------------------------


def _take(job: Assign, client: Any) -> None:  # noqa: ANN401 - the worker's own
    """Read from the job what has to happen, and with which job server."""
    global _plan  # noqa: PLW0603 - a worker has one job at a time
    members = json.loads(job.body)
    act, _, when = str(members.get("chaos", "")).partition("@")
    phase, _, times = when.partition("*")
    _plan = _Plan(act=act, phase=phase, ref=str(members.get("ref", "")), times=int(times or 1_000))
    if "chaos_url" in members:
        client._submissions = Submissions(client.job_server.profile, members["chaos_url"])


def _patch_worker() -> None:
    cls: Any = main.Worker
    serve_one, report = cls._serve_one, cls._report

    async def faulty_serve_one(self: Any, job: Assign, *rest: Any) -> Any:  # noqa: ANN401
        global _worker  # noqa: PLW0603 - the only one of this process
        _worker = self
        _take(job, self._job_servers.client(job.profile))
        _act("p1")
        return await serve_one(self, job, *rest)

    def faulty_report(self: Any, message: FromWorker) -> None:  # noqa: ANN401
        _note_starved()
        if isinstance(message, Answered):
            _act("p4")
            if _plan.phase == "p5":
                payload = encode(message)
                frame = _LENGTH.pack(len(payload)) + payload
                _raw(frame[: len(frame) // 2])
                _act("p5")
                _raw(frame[len(frame) // 2 :])  # a worker that was stopped here and resumed writes the rest
                return
        if _plan.act == "measure" and not isinstance(message, Progress):
            _note(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        report(self, message)
        match message:
            case Progress(event=Event.CONNECTED) if _plan.phase == "p2":
                asyncio.get_running_loop().call_later(_SENT_S, _act, "p2")
            case Progress(event=Event.REPLY_READ):
                _act("p3")
            case Answered():
                _act("p6")

    cls._serve_one, cls._report = faulty_serve_one, faulty_report


def _patch_run() -> None:
    """Let a spare be told to leave, too: the test knows its pid."""
    run: Any = main.run

    def faulty_run(*args: Any, **named: Any) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        signal.signal(signal.SIGUSR2, lambda *_: os._exit(1))
        run(*args, **named)

    vars(fork_server)["run"] = faulty_run  # where the fork server looks it up


def _patch_semaphores() -> None:
    """Give the semaphores of this proxy's queues unique names for as long as they have names."""
    config: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    config["semprefix"] = "/" + semaphore_prefix(Path(os.environ["CHAOS_DIR"]))


def _patch_fork() -> None:
    """While the file `no-fork` exists, let every fork fail as if there were no process ids left."""
    fork = os.fork
    marker = Path(os.environ["CHAOS_DIR"], "no-fork")

    def faulty_fork() -> int:
        if marker.exists():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = faulty_fork


if __name__ == "__main__":
    if Path(os.environ["CHAOS_DIR"], "no-fork-server").exists():
        sys.exit(1)
    follow_clock(Path(os.environ["CHAOS_DIR"], "clock"))
    _patch_worker()
    _patch_run()
    _patch_fork()
    _patch_semaphores()
    entry.main(int(sys.argv[1]))
