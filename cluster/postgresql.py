"""A private PostgreSQL server: created in its own folder, started, stopped, killed, paused.

It listens on 127.0.0.1 only and lets everybody on this machine log in as `postgres`, so it is only for throw-away data.
Its commits are durable (`fsync=on`). PostgreSQL refuses to run as root: started by root, it runs as the user
`postgres`, or `nobody` if there is none.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cluster.processes import reserve

__all__ = ["PostgreSQL", "PostgreSQLError", "binaries"]

#: Where distributions keep the programs of each version: Debian and Ubuntu, Fedora and RHEL.
_FOLDERS: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_START_S: Final = 30.0
_END_S: Final = 10.0
_LOOK_S: Final = 0.01
#: Small, because several may run at the same time; durable, because the proxy accepts nothing else.
_CONFIGURATION: Final = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
logging_collector = off
dynamic_shared_memory_type = mmap
"""


class PostgreSQLError(Exception):
    """There is no PostgreSQL on this machine, or it did not start; the message says why."""


def binaries() -> Path:
    """Return the folder with the programs: `POSTGRESQL_BIN`, or the newest version's. Raises PostgreSQLError: none."""
    if given := os.environ.get("POSTGRESQL_BIN"):
        return Path(given)
    folders = [folder for pattern in _FOLDERS for folder in Path("/").glob(pattern[1:])]
    on_path = shutil.which("postgres")
    folders += [Path(on_path).resolve().parent] if on_path else []
    found = [folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()]
    if not found:
        raise PostgreSQLError("PostgreSQL is not installed. Debian, Ubuntu: apt install postgresql")
    return max(found, key=_version)


class PostgreSQL:
    """One server. As a context manager it runs within the block, and leaves nothing behind."""

    def __init__(
        self,
        *,
        port: int = 0,
        configuration: str = "",
        parent: Path | None = None,
        standby_of: PostgreSQL | None = None,
        template: Path | None = None,
    ) -> None:
        """Create its folder, with an empty database; `configuration`: further lines for postgresql.conf.

        `port` 0: any free one, which stays the same when the server is restarted. `parent`: where to create the folder,
        accessible to the user that the server runs as; None: where temporary files are. `standby_of`: a running server;
        this one copies it, and follows it until it is promoted. `template`: where to keep a copy of the empty database
        for the next one, which then takes a tenth of the time.

        Raises:
            PostgreSQLError: there is no PostgreSQL on this machine, or it cannot be used.
        """
        self._bin = binaries()
        user = _user()
        self._reservation = reserve(port)
        self.port: int = self._reservation.getsockname()[1]
        #: The command prefix for its programs (setpriv is in util-linux, so in every distribution).
        self._as_user = ["setpriv", *_options(user)]
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-postgresql-", dir=parent))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        # pdeathsig is sent when the thread that started the process ends, so that thread must live as long as we do.
        self._starter = ThreadPoolExecutor(1, "postgresql")
        try:
            if user is not None:
                os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._make(configuration, standby_of, template)
        except (OSError, PostgreSQLError):
            self.remove()
            raise

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except PostgreSQLError:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it and remove everything."""
        self.remove()

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        path = self.folder / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def pids(self) -> list[int]:
        """The processes of the server, the parent of all others first; none if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return []
        pid = self._process.pid
        with contextlib.suppress(OSError):
            return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]
        return []

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return the value of `JOURNAL` for one of its databases."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return when it accepts connections. Raises PostgreSQLError."""
        # If we are killed, the kernel sends it the signal, and it ends its children.
        program = [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        command = [*self._as_user, "--pdeathsig", "QUIT", *program]
        with (self.folder / "log").open("ab") as log:
            self._process = self._starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,
            ).result()
        end = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise PostgreSQLError(f"PostgreSQL did not start; its last words: {self.log.strip()[-500:]}")
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """Stop it gracefully: connections are closed, everything is written."""
        if self._process is not None:
            self._signal([self._process.pid], signal.SIGINT)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kill all its processes at once, as a crash of the server would, and wait until they are gone."""
        self._signal(self.pids[:1], signal.SIGSTOP)  # so that it starts no more processes
        pids = self.pids
        self._signal(pids, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None
        while any(_is_running(pid) for pid in pids):
            time.sleep(_LOOK_S)

    def pause(self) -> None:
        """Stop all its processes, as a machine that hangs would: connections stay, nothing is answered."""
        self._signal(self.pids, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(self.pids, signal.SIGCONT)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Return a statement's answer: a line for each row, columns separated by `|`. Raises PostgreSQLError."""
        import psycopg  # noqa: PLC0415 - only whoever asks needs it

        try:
            with psycopg.connect(self.url(database), autocommit=True) as connection:
                answer = connection.pgconn.exec_(statement.encode())
        except psycopg.Error as exc:
            raise PostgreSQLError(str(exc).strip()) from exc
        if answer.error_message:
            raise PostgreSQLError(answer.error_message.decode().strip())
        columns = range(answer.nfields)
        rows = (b"|".join(answer.get_value(row, at) or b"" for at in columns) for row in range(answer.ntuples))
        return b"\n".join(rows).decode()

    def remove(self) -> None:
        """End it at once, and remove its files."""
        self.resume()
        self._signal(self.pids[:1], signal.SIGQUIT)  # killed, it would leave shared memory behind
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        self.kill()
        self._starter.shutdown()
        self._reservation.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def promote(self) -> None:
        """Promote a standby to primary."""
        self.sql("SELECT pg_promote()")

    def _make(self, configuration: str, standby_of: PostgreSQL | None, template: Path | None) -> None:
        if standby_of is not None:
            source = ["-d", standby_of.url(), "--write-recovery-conf", "--checkpoint=fast"]
            self._run(self._as_user, str(self._bin / "pg_basebackup"), "-D", str(self.data), "--no-sync", *source)
        elif template is not None and template.exists():
            self._run([], "cp", "--archive", str(template), str(self.data))
        else:
            options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
            self._run(self._as_user, str(self._bin / "initdb"), "-D", str(self.data), "--no-sync", *options)
            if template is not None:
                self._keep(template)
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"{_CONFIGURATION}{configuration}\n")

    def _keep(self, template: Path) -> None:
        """Copy what initdb has made. Whoever does so at the same time copies the same."""
        template.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=template.parent) as incomplete:
            self._run([], "cp", "--archive", str(self.data), f"{incomplete}/data")
            with contextlib.suppress(OSError):  # another one was faster
                Path(incomplete, "data").rename(template)

    def _run(self, prefix: list[str], program: str, *arguments: str) -> None:
        ended = subprocess.run(  # noqa: S603 - our own arguments
            [*prefix, program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=_environment(),
        )
        if ended.returncode:
            raise PostgreSQLError(f"{Path(program).name} failed: {ended.stderr.strip()}")

    def _is_ready(self) -> bool:
        """Whether it accepts connections, according to the last line of its lock file."""
        with contextlib.suppress(OSError, IndexError):  # does not exist yet, or is incomplete
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()
            return self._process is not None and lines[0] == str(self._process.pid) and lines[-1].strip() == "ready"
        return False

    @staticmethod
    def _signal(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _user() -> pwd.struct_passwd | None:
    """Return the user that it has to run as; None: the current one."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgreSQLError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")


def _options(user: pwd.struct_passwd | None) -> list[str]:
    return [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _environment() -> dict[str, str]:
    """Return our environment without what would mislead its programs (PGHOST, PGDATA), and in English."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(folder)))


def _is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return not _stat(pid).startswith("Z")
    return False


def _stat(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2]
