"""The private PostgreSQL starts, stops and pauses, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.postgresql import PostgreSQL, PostgreSQLError, binaries
from tests.support.places import shared_memory
from tests.support.postgresql import own_server
from tests.support.proxy_process import ROOT
from tests.support.waiting import eventually_blocking


def is_running(pid: int) -> bool:
    """Whether such a process exists; a zombie does not count: its new parent may not have reaped it yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def shared_memory_segments() -> set[str]:
    """Return the ids of the System V segments of the machine."""
    lines = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()
    return {line.split()[1] for line in lines}


def test_what_was_committed_outlives_a_kill_and_a_stop(postgresql: PostgreSQL, database: str) -> None:
    """The port stays the same, so that clients find the server again."""
    name = database.rpartition("/")[2]
    port = postgresql.port
    postgresql.sql("CREATE TABLE t (n int)", name)
    for end in (postgresql.kill, postgresql.stop):
        postgresql.sql("INSERT INTO t VALUES (1)", name)
        end()
        assert postgresql.pids == []
        with pytest.raises(PostgreSQLError, match="Connection refused"):
            postgresql.sql("SELECT 1")
        postgresql.start()
    assert postgresql.port == port
    assert postgresql.sql("SELECT count(*) FROM t", name) == "2"


def test_a_paused_one_answers_nobody_until_it_is_resumed(postgresql: PostgreSQL) -> None:
    """The kernel still accepts connections."""
    postgresql.pause()
    with socket.create_connection(("127.0.0.1", postgresql.port)) as connection:
        connection.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # an SSLRequest
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        postgresql.resume()
        connection.settimeout(30)
        assert connection.recv(1) == b"N"


def test_it_is_durable_and_alone() -> None:
    """As the proxy wants it; given settings are added to its configuration."""
    with own_server(configuration="work_mem = '5MB'") as server:
        pids = server.pids
        _, segment = (server.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[6].split()
        assert segment in shared_memory_segments()
        assert server.sql("SHOW dynamic_shared_memory_type") == "mmap"  # its files are in its folder
        assert server.sql("SHOW fsync") == "on"
        assert server.sql("SHOW listen_addresses") == "127.0.0.1"
        assert server.sql("SHOW work_mem") == "5MB"
        assert Path(f"/proc/{pids[0]}").stat().st_uid != 0
    eventually_blocking(lambda: not any(map(is_running, pids)))
    assert not server.folder.exists()
    assert segment not in shared_memory_segments()  # a machine has room for some thousands


def test_what_cannot_be_started_says_why_and_leaves_nothing() -> None:
    """The error quotes the server's own words."""
    server = own_server(configuration="no_such_setting = 1")
    with pytest.raises(PostgreSQLError, match="no_such_setting"), server:
        pytest.fail("it started")
    assert not server.folder.exists()


def test_a_template_is_kept_for_the_next_one(tmp_path: Path) -> None:
    """Which is a copy."""
    template = tmp_path / "folder" / "template"
    PostgreSQL(parent=shared_memory(), template=template).remove()
    (template / "mark").touch()
    with PostgreSQL(parent=shared_memory(), template=template) as server:
        assert (server.data / "mark").exists()
        assert server.sql("SELECT 1, 'a', NULL UNION SELECT 2, 'b', 'c' ORDER BY 1") == "1|a|\n2|b|c"
    assert [file.name for file in template.parent.iterdir()] == ["template"]


def test_it_ends_with_whoever_started_it() -> None:
    """However the starter ended."""
    program = """
import sys
from tests.support.postgresql import own_server
server = own_server()
server.start()
print(server.folder, *server.pids, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        assert len(pids) > 1
        owner.kill()
        owner.wait()
    eventually_blocking(lambda: not any(is_running(int(pid)) for pid in pids))
    subprocess.run(["rm", "-r", folder], check=True)


def test_a_machine_without_it_is_told_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is created before the check."""
    monkeypatch.setattr("cluster.postgresql._FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PostgreSQLError, match="apt install postgresql"):
        binaries()
