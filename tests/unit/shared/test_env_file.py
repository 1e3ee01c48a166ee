"""`.env`: each line has an effect, or the start reports it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import load, misspelt


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the file."""
    return tmp_path / ".env"


@pytest.mark.parametrize(
    "text",
    [
        "PORT=4000",
        "PORT=4000\r\n",
        "# old Macs\rPORT=4000\r",
        "\ufeffPORT=4000\n",
        "export PORT=4000\n",
        "  export\tPORT=4000\n",
        "PORT = 4000\n",
        "PORT='4000'\n",
        'PORT="4000"\n',
        "# PORT=1\n\n   # a comment\nPORT=4000\n",
    ],
)
def test_what_editors_and_shells_write_is_taken(file: Path, text: str) -> None:
    """A byte order mark, other line ends, `export`, and quotes around a whole value change nothing."""
    file.write_bytes(text.encode())
    assert load({}, file).port == 4000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PORT: 4000", "takes NAME=value; write PORT=..."),
        ("PORT 4000", "takes NAME=value; write PORT=..."),
        ("API_KEYS", "takes NAME=value; write API_KEYS=..."),
        ("[settings]", "takes NAME=value, or # and a comment"),
        ("; a comment", "takes NAME=value, or # and a comment"),
        ("port=4000", "port is not a setting; did you mean PORT?"),
        ("Port=4000", "Port is not a setting; did you mean PORT?"),
        ("API_KEY=secret", "API_KEY is not a setting; did you mean API_KEYS?"),
        ("API-KEYS=secret", "API-KEYS is not a setting; did you mean API_KEYS?"),
        ("JOB_TIMOUT=5", "JOB_TIMOUT is not a setting; did you mean JOB_TIMEOUT?"),
        ("JBO_TIMEOTU=5", "JBO_TIMEOTU is not a setting; did you mean JOB_TIMEOUT?"),
        ("set PORT=4000", "set PORT is not a setting; did you mean PORT?"),
        ("declare -x MAX_JOB=4", "declare -x MAX_JOB is not a setting; did you mean MAX_JOBS?"),
        ("=4000", "this is not a setting, so the line has no effect"),
        ("OTEL_SERVICE_NAME=jobs", "OTEL_SERVICE_NAME is not a setting, so the line has no effect"),
        ("\u200bPORT=4000", "PORT is not a setting; did you mean PORT?"),
    ],
)
def test_a_line_that_would_do_nothing_ends_the_start(file: Path, line: str, words: str) -> None:
    """With its number and the probable name; never with a value, which may be a secret."""
    file.write_text(f"# a comment\nMAX_BODY_BYTES=2048\n{line}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load({}, file)
    assert str(caught.value).startswith(f".env, line 3: {words}")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_stands_there_twice_ends_the_start(file: Path) -> None:
    """One of the two would have no effect."""
    file.write_text("PORT=4000\nHOST=localhost\nexport PORT=5000\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"^\.env, line 3: PORT is already set in line 1"):
        load({}, file)


@pytest.mark.parametrize(
    "line", ['API_KEYS="k1","k2"', "API_KEYS='k1', 'k2'", "API_KEYS=k1 # mine", "JOURNAL=jobs.sqlite3 # the file"]
)
def test_what_would_become_part_of_a_value_ends_the_start(file: Path, line: str) -> None:
    """Quotes would change the keys, a comment the file's name."""
    file.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"^{line.partition('=')[0]}: got "):
        load({}, file)


def test_every_wrong_line_is_told_at_once(file: Path) -> None:
    """And each invalid value."""
    file.write_text("port=1\nMAX_JOBS=none\nJOB_TIMOUT=5\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load({}, file)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        ".env, line 1",
        ".env, line 3",
        "MAX_JOBS",
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8_is_one_line(file: Path, encoding: str) -> None:
    """Not a traceback."""
    file.write_bytes("JOURNAL=Aufträge.sqlite3\n".encode(encoding))
    with pytest.raises(SettingsError, match=r"^\.env: it is not UTF-8 \(byte \d+\); save it as UTF-8$"):
        load({}, file)


def test_a_folder_or_a_pipe_of_that_name_is_one_line(file: Path, tmp_path: Path) -> None:
    """A container runtime creates a folder if a file to mount is missing."""
    file.mkdir()
    with pytest.raises(SettingsError, match=r"^\.env: it cannot be read: Is a directory; use a file"):
        load({}, file)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SettingsError, match=r"^pipe: it is a pipe; use a file$"):
        load({}, pipe)


def test_an_empty_device_is_no_file_and_no_error() -> None:
    """Some users mount /dev/null over a file to disable it."""
    assert load({}, Path("/dev/null")) == load({})


def test_misspelt_variables_of_the_environment_are_found() -> None:
    """They cannot be refused, because other programs may use them; names that are not similar are ignored."""
    environ = {
        "API_KEY": "k",
        "JOB_TIMOUT": "5",
        "port": "1",
        "MAXJOBS": "3",
        "MAX_JOBS": "3",
        "HOME": "/root",
        "PATH": "/bin",
        "HOSTNAME": "machine",
        "JOURNAL_STREAM": "8:1",
        "LANG": "C",
    }
    assert misspelt(environ) == {
        "API_KEY": "API_KEYS",
        "JOB_TIMOUT": "JOB_TIMEOUT",
        "port": "PORT",
        "MAXJOBS": "MAX_JOBS",
    }


def test_an_ordinary_environment_has_no_misspelt_names() -> None:
    """There are no warnings about other programs' variables."""
    ordinary = (
        "SHELL PWD LOGNAME XDG_SESSION_TYPE MOTD_SHOWN HOME LANG LS_COLORS SSH_CONNECTION USER SHLVL XDG_SESSION_ID "
        "XDG_RUNTIME_DIR SSH_CLIENT PATH DBUS_SESSION_BUS_ADDRESS SSH_TTY MAIL TERM _ INVOCATION_ID JOURNAL_STREAM "
        "STATE_DIRECTORY RUNTIME_DIRECTORY SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH HOSTNAME PYTHON_VERSION GPG_KEY "
        "KUBERNETES_PORT KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT OLDPWD COLUMNS LINES CI TZ EDITOR PAGER"
    )
    assert misspelt(dict.fromkeys(ordinary.split(), "x")) == {}
