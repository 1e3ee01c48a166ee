"""Settings: the names and defaults of the contract, their documentation, and the errors for wrong values."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from shared.errors import SettingsError
from shared.setting_kinds import AdminKey, Role
from shared.settings import Settings, load, variables

ROOT: Final = Path(__file__).resolve().parent.parent.parent.parent

#: The contract: each variable with its default as text, and its value in the program.
CONTRACT: Final[dict[str, tuple[str, Any]]] = {
    "HOST": ("127.0.0.1", "127.0.0.1"),
    "PORT": ("3000", 3000),
    "ADMIN_HOST": ("127.0.0.1", "127.0.0.1"),
    "ADMIN_PORT": ("3001", 3001),
    "JOB_SERVER_URL": ("", ""),
    "JOB_SERVER_CAFILE": ("", ""),
    "PROFILE": ("spreedly", "spreedly"),
    # The contract's http://127.0.0.1:3000/callback is the value of an empty one with the default listener.
    "CALLBACK_URL": ("", ""),
    "JOB_TIMEOUT": ("30", 30.0),
    "MAX_JOBS": ("256", 256),
    "WORKER_SPARES": ("8", 8),
    "WORKER_MAX_JOBS": ("1", 1),
    "IMMORTAL_OBJECTS": ("auto", "auto"),
    "MAX_BODY_BYTES": ("1048576", 1_048_576),
    "SUBMIT_RETRIES": ("3", 3),
    "LOST_REPLY_WAIT": ("5", 5.0),
    "GRANULAR_ERRORS": ("false", False),
    "JOURNAL": ("jobs.sqlite3", "jobs.sqlite3"),
    "INSTANCE_NAME": ("", ""),
    "RESULT_TTL": ("3600", 3600.0),
    "JOURNAL_MAX_BYTES": ("1073741824", 1_073_741_824),
    "CALLBACK_HOST": ("", ""),
    "ADMIN_NAMES": ("", ()),
    "TRUSTED_PROXIES": ("", ()),
    "CALLBACK_PORT": ("", None),
    "API_KEYS": ("", ()),
    "API_KEYS_FILE": ("", ""),
    "ADMIN_KEYS": ("", ()),
    "ADMIN_KEYS_FILE": ("", ""),
    "ADMIN_USER_HEADER": ("", ""),
    "ADMIN_TRUSTED_PEERS": ("", ()),
    "ADMIN_ACTING_USERS": ("", ()),
    "DRAIN_DELAY": ("0", 0.0),
    "KEEP_ALIVE_TIMEOUT": ("100", 100.0),
    "LABEL_MEMBERS": ("account", ("account",)),
    "RECORD_BODIES": ("0", 0),
    "RECORD_BODIES_MASKED": ("", ()),
    "FAST_HTTP": ("true", True),
    "TLS_CERTFILE": ("", ""),
    "TLS_KEYFILE": ("", ""),
    "SQS_QUEUE_URL": ("", ""),
    "SQS_REPLY_QUEUE_URL": ("", ""),
    "SQS_REPLY_TO": ("", ()),
    "LOG_FORMAT": ("auto", "auto"),
    "LOG_LEVEL": ("info", "info"),
}

BAD_VALUES: Final = [
    ("HOST", ""),
    ("HOST", "two words"),
    ("HOST", "a/b"),
    ("HOST", "localhost:3000"),
    ("HOST", "http://localhost"),
    ("HOST", "a" * 64),
    ("HOST", "127.0.0.1;"),
    ("HOST", "300.0.0.1"),
    ("HOST", "[::1"),
    ("HOST", "::1::"),
    ("PORT", "http"),
    ("PORT", "-1"),
    ("PORT", "65536"),
    ("PORT", "3000.0"),
    ("PORT", "\uff13\uff10\uff10\uff10"),
    ("PORT", "3_000"),
    ("MAX_JOBS", "\u0663"),
    ("MAX_JOBS", "1_000"),
    ("JOB_TIMEOUT", "\u0663.5"),
    ("JOB_TIMEOUT", "1_0"),
    ("INSTANCE_NAME", "$(POD_NAME)"),
    ("INSTANCE_NAME", "${HOSTNAME:-proxy}"),
    ("API_KEYS", "good,$API_KEY"),
    ("ADMIN_KEYS", "anna:act:${ANNA_KEY_OF_MANY_LETTERS}"),
    ("JOB_SERVER_URL", "https://$HOST/start"),
    ("JOURNAL", "postgresql://proxy@$DATABASE_HOST/jobs"),
    ("INSTANCE_NAME", "\u201cone\u201d"),
    ("JOURNAL", "\u2018jobs.sqlite3\u2019"),
    ("ADMIN_HOST", ""),
    ("ADMIN_PORT", "x"),
    ("ADMIN_PORT", "65536"),
    ("JOB_SERVER_URL", "jobs.example.com/start"),
    ("JOB_SERVER_URL", "ftp://jobs.example.com/start"),
    ("JOB_SERVER_URL", "http://"),
    ("JOB_SERVER_URL", "http://jobs.example.com:port/"),
    ("JOB_SERVER_URL", "http://jobs.example.com:99999/"),
    ("JOB_SERVER_URL", "http://jobs.example.com/a b"),
    ("JOB_SERVER_URL", "http://jobs.example.com/#part"),
    ("JOB_SERVER_URL", "http://[::1/"),
    ("PROFILE", ""),
    ("JOB_SERVER_URL", "http://jobs.example.com:0/"),
    ("JOB_SERVER_URL", "http:///start"),
    ("JOB_SERVER_URL", "http:/jobs.example.com/start"),
    ("JOB_SERVER_URL", "http://jobs.example.com\\start"),
    ("JOB_SERVER_URL", "http://jöbs.example.com/"),
    ("JOB_SERVER_URL", "http://127.1/"),
    ("JOB_SERVER_URL", "'http://jobs.example.com/'"),
    ("JOB_SERVER_URL", "http://jobs.example.com/ # the new one"),
    ("CALLBACK_URL", "proxy.example/callback"),
    ("CALLBACK_URL", "https://proxy.example/callback?a=b"),
    ("JOB_TIMEOUT", ""),
    ("JOB_TIMEOUT", "soon"),
    ("JOB_TIMEOUT", "0"),
    ("JOB_TIMEOUT", "-1"),
    ("JOB_TIMEOUT", "nan"),
    ("JOB_TIMEOUT", "inf"),
    ("MAX_JOBS", "0"),
    ("MAX_JOBS", "1.5"),
    ("MAX_JOBS", "many"),
    ("WORKER_SPARES", "-1"),
    ("WORKER_SPARES", "1e3"),
    ("WORKER_MAX_JOBS", "-1"),
    ("WORKER_MAX_JOBS", ""),
    ("MAX_BODY_BYTES", "0"),
    ("MAX_BODY_BYTES", "1 MiB"),
    ("SUBMIT_RETRIES", "-1"),
    ("SUBMIT_RETRIES", "x"),
    ("LOST_REPLY_WAIT", "-0.1"),
    ("LOST_REPLY_WAIT", "nan"),
    ("GRANULAR_ERRORS", ""),
    ("GRANULAR_ERRORS", "maybe"),
    ("JOURNAL_MAX_BYTES", "1000"),
    ("JOURNAL_MAX_BYTES", "1G"),
    ("RESULT_TTL", "0"),
    ("RESULT_TTL", "inf"),
    ("CALLBACK_HOST", "a b"),
    ("CALLBACK_PORT", "x"),
    ("API_KEYS", "one,,two"),
    ("API_KEYS", "sec ret"),
    ("API_KEYS", "geheim\u00df"),
    ("API_KEYS", '"k1","k2"'),
    ("API_KEYS", "k1,'k2'"),
    ("API_KEYS", 'k"1'),
    ("ADMIN_KEYS", "0123456789abcdef"),
    ("ADMIN_KEYS", "anna:0123456789abcdef"),
    ("ADMIN_KEYS", "anna:all:0123456789abcdef"),
    ("ADMIN_KEYS", "anna:act:0123456789abcde"),
    ("ADMIN_KEYS", ":act:0123456789abcdef"),
    ("ADMIN_KEYS", "an na:act:0123456789abcdef"),
    ("ADMIN_KEYS", "anna:act:0123456789abcdef,"),
    ("ADMIN_USER_HEADER", "X User"),
    ("ADMIN_USER_HEADER", "Cookie"),
    ("ADMIN_USER_HEADER", "X_User"),
    ("ADMIN_TRUSTED_PEERS", "gateway"),
    ("ADMIN_ACTING_USERS", "an na"),
    ("ADMIN_NAMES", "ops.example:3001"),
    ("ADMIN_NAMES", "ops.example,,proxy"),
    ("ADMIN_NAMES", "*"),
    ("LABEL_MEMBERS", "account,,ref"),
    ("LABEL_MEMBERS", 'account", "ref'),  # as .env's "account", "ref" arrives here
    ("RECORD_BODIES_MASKED", '["card", "name"]'),
    ("RECORD_BODIES_MASKED", "card,\u201cname\u201d"),
    ("TRUSTED_PROXIES", "gateway"),
    ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("TRUSTED_PROXIES", "*"),
    ("DRAIN_DELAY", "-1"),
    ("DRAIN_DELAY", "inf"),
    ("JOURNAL", "jobs.sqlite3 # the file"),
    ("JOURNAL", "'jobs.sqlite3'"),
    ("JOURNAL", '"jobs.sqlite3"'),
    ("JOURNAL", "~/jobs.sqlite3"),
    ("JOURNAL", "$HOME/jobs.sqlite3"),
    ("JOURNAL", ":memory:"),
    ("JOURNAL", "file:jobs.sqlite3?mode=memory"),
    ("JOURNAL", "/var/lib/jobs/"),
    ("JOURNAL", "jobs\x00.sqlite3"),
    ("JOURNAL", "mysql://db.example.com/jobs"),
    ("JOURNAL", "postgresql://"),
    ("JOURNAL", "postgresql://db.example.com/jobs;{}"),
    ("INSTANCE_NAME", "the first"),
    ("INSTANCE_NAME", "a,b"),
    ("TLS_CERTFILE", '"cert.pem"'),
    ("MAX_JOBS", "7 # enough"),
    ("SQS_QUEUE_URL", "jobs"),
    ("SQS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/jobs"),
    ("SQS_REPLY_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs?a=b"),
    ("SQS_REPLY_TO", "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs,"),
    ("LOG_FORMAT", "xml"),
    ("LOG_LEVEL", "INFO!"),
    ("LOG_LEVEL", ""),
]

TOGETHER: Final[dict[str, dict[str, str]]] = {
    "TLS_CERTFILE, TLS_KEYFILE": {"TLS_CERTFILE": "/dev/null"},
    "TLS_CERTFILE": {"TLS_CERTFILE": "/nowhere/cert.pem", "TLS_KEYFILE": __file__},
    "TLS_KEYFILE": {"TLS_CERTFILE": __file__, "TLS_KEYFILE": "/nowhere/key.pem"},
    "PORT": {"PORT": "", "CALLBACK_PORT": "3005"},
    "SQS_REPLY_QUEUE_URL, SQS_REPLY_TO": {"SQS_REPLY_TO": "http://queues/1/jobs"},
    "SQS_QUEUE_URL, SQS_REPLY_QUEUE_URL, SQS_REPLY_TO": {
        "SQS_QUEUE_URL": "http://queues/1/jobs",
        "SQS_REPLY_TO": "http://others/1/replies",
    },
    "SQS_REPLY_QUEUE_URL": {"SQS_QUEUE_URL": "http://queues/1/jobs", "SQS_REPLY_QUEUE_URL": "http://queues/1/jobs/"},
    "SQS_REPLY_TO": {"SQS_QUEUE_URL": "http://queues/1/jobs", "SQS_REPLY_TO": "http://queues/1/a,http://queues/1/jobs"},
    "JOURNAL": {"SQS_QUEUE_URL": "http://queues/1/jobs", "JOURNAL": ""},
    "JOB_TIMEOUT": {"SQS_QUEUE_URL": "http://queues/1/jobs", "JOB_TIMEOUT": "43181"},
    "ADMIN_PORT": {"ADMIN_PORT": "3000"},
    "ADMIN_KEYS, ADMIN_KEYS_FILE": {"ADMIN_KEYS": "anna:act:0123456789abcdef,ben:look:0123456789abcdef"},
    "ADMIN_USER_HEADER, ADMIN_TRUSTED_PEERS": {"ADMIN_USER_HEADER": "X-User"},
    "ADMIN_ACTING_USERS": {"ADMIN_ACTING_USERS": "anna"},
    "CALLBACK_HOST": {"CALLBACK_HOST": "127.0.0.1"},
    "CALLBACK_PORT": {"CALLBACK_PORT": "3000"},
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_setting_left_alone_has_the_default_of_the_contract(name: str) -> None:
    """Name, text and value of each default are the contract's."""
    text, value = CONTRACT[name]
    assert variables()[name].default == text
    found = getattr(load({}), name.lower())
    assert found == value
    assert type(found) is type(value)


def test_no_setting_is_missing_or_added_in_silence() -> None:
    """If the contract grows, this test and the documents have to be extended."""
    assert set(variables()) == set(CONTRACT)


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_gives_one_line_that_names_the_variable(name: str, value: str) -> None:
    """The line has the variable, its value (unless it is secret, or a URL's query) and what it takes."""
    with pytest.raises(SettingsError) as caught:
        load({name: value})
    line = str(caught.value)
    assert line.startswith(f"{name}: got ")
    assert "\n" not in line
    assert ", takes " in line
    assert variables()[name].takes in line
    assert (repr(value.replace("?a=b", "?...")) in line) is (name not in {"ADMIN_KEYS", "API_KEYS"})


def test_without_a_port_callbacks_need_one_of_their_own() -> None:
    """And jobs a queue."""
    queue = {"PORT": "", "SQS_QUEUE_URL": "http://queues/1/jobs"}
    with pytest.raises(SettingsError, match=r"^CALLBACK_PORT: got nothing, takes a port where PORT is empty$"):
        load(queue)
    assert load(queue | {"CALLBACK_PORT": "3005"}).port is None


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """One line each: single settings, combinations, and the file."""
    with pytest.raises(SettingsError) as caught:
        load({"MAX_JOBS": "many", "PORT": "3001", "API_KEYS": "sec ret", "CALLBACK_HOST": "127.0.0.1"})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "API_KEYS",
        "MAX_JOBS",
        "ADMIN_PORT",
        "CALLBACK_HOST",
    ]


def test_what_hangs_together_with_a_bad_value_is_left_alone() -> None:
    """If the port is invalid, it cannot be compared with ADMIN_PORT."""
    with pytest.raises(SettingsError) as caught:
        load({"PORT": "x", "ADMIN_PORT": "3000"})
    assert str(caught.value).count("\n") == 0


def test_a_password_in_an_address_is_not_shown() -> None:
    """A bad address is shown without user and password."""
    with pytest.raises(SettingsError) as caught:
        load({"JOB_SERVER_URL": "http://user:hidden@jobs.example.com:99999/start"})
    assert "hidden" not in str(caught.value)
    assert "jobs.example.com:99999" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("CALLBACK_URL", "https://proxy.example.com/callback?token=hidden", "https://proxy.example.com/callback?..."),
        ("JOB_SERVER_URL", "https://jobs.example.com/start?code=hidd#en", "https://jobs.example.com/start?..."),
        ("JOB_SERVER_URL", "https://jobs.example.com/h1idden9h1idden9#", "https://jobs.example.com/...#"),
        ("JOURNAL", "postgresql+psycopg://me@db/jobs?password=hidden", "postgresql+psycopg://...@db/jobs?..."),
        ("JOB_SERVER_URL", "//me:hidden@jobs.example.com/start", "//...@jobs.example.com/start"),
    ],
)
def test_no_key_in_a_url_is_shown(name: str, text: str, shown: str) -> None:
    """As where the settings are shown to operators; the rest of the value is."""
    with pytest.raises(SettingsError) as caught:
        load({name: text})
    assert f"{name}: got {shown!r}, takes" in str(caught.value)


def test_a_user_name_with_a_colon_is_refused() -> None:
    """Authentication by the Basic scheme has none (RFC 7617, 2)."""
    with pytest.raises(SettingsError, match="JOB_SERVER_URL"):
        load({"JOB_SERVER_URL": "http://us%3Aer:pass@jobs.example.com/"})


@pytest.mark.parametrize("end", ["", "?"])
def test_an_address_with_a_quote_at_its_end_is_refused(end: str) -> None:
    """Even if the empty query after it is dropped: a value that is shown could be set again."""
    with pytest.raises(SettingsError, match="quote"):
        load({"JOB_SERVER_URL": f"http://jobs.example.com/'{end}"})


@given(
    scheme=st.sampled_from(["http", "HTTPS", "Http"]),
    host=st.sampled_from(["Jobs.Example.com", "127.0.0.1", "[::1]", "[2001:DB8::1]", "jobs", "my_jobs", "jobs."]),
    port=st.sampled_from(["", ":", ":1", ":80", ":443", ":0080", ":65535"]),
    path=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map("/{}".format),
    user=st.sampled_from(["", "user@", "user:pass@", "us%40er:p%3Ass@"]),
)
def test_the_libraries_read_an_address_that_is_taken_as_we_do(
    scheme: str, host: str, port: str, path: str, user: str
) -> None:
    """`--check`, the workers and the output agree about host, port and scheme."""
    try:
        url = load({"JOB_SERVER_URL": f"{scheme}://{user}{host}{port}{path}"}).job_server_url
    except SettingsError:
        return
    ours, theirs = urlsplit(url), URL(url)
    assert (ours.scheme, ours.hostname, ours.port or {"http": 80, "https": 443}[ours.scheme]) == (
        theirs.scheme,
        theirs.host,
        theirs.port,
    )
    assert (ours.username or "") == quote(theirs.user or "", safe="")
    assert load({"JOB_SERVER_URL": url}).job_server_url == url


@pytest.mark.parametrize("name", ["HOST", "JOB_SERVER_URL", "JOB_SERVER_CAFILE", "CALLBACK_HOST", "LOG_LEVEL"])
def test_a_value_as_long_as_a_file_does_not_fill_the_terminal(name: str) -> None:
    """Somebody has passed a file's content instead of its name."""
    with pytest.raises(SettingsError) as refused:
        load({name: "a" * 100_000})
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name}: got 'aaa")
    assert len(line) < 500


@pytest.mark.parametrize("names", TOGETHER)
def test_values_that_do_not_fit_together_give_one_line(names: str) -> None:
    """Wrong combinations are reported as clearly as wrong values."""
    with pytest.raises(SettingsError) as caught:
        load(TOGETHER[names])
    line = str(caught.value)
    assert line.startswith(f"{names}: ")
    assert "\n" not in line


def test_a_secret_is_never_in_the_message() -> None:
    """An invalid key is not printed, because many may read the log of a failed start."""
    with pytest.raises(SettingsError) as caught:
        load({"API_KEYS": "hush-hush, not this one"})
    assert "hush" not in str(caught.value)
    assert "not shown" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "0", 0),
        ("PORT", " 8080 ", 8080),
        ("ADMIN_PORT", "", None),
        ("CALLBACK_PORT", "0", 0),
        ("JOB_TIMEOUT", "0.5", 0.5),
        ("WORKER_MAX_JOBS", "0", 0),
        ("WORKER_SPARES", "0", 0),
        ("SUBMIT_RETRIES", "0", 0),
        ("LOST_REPLY_WAIT", "0", 0.0),
        ("GRANULAR_ERRORS", "TRUE", True),
        ("GRANULAR_ERRORS", "off", False),
        ("CALLBACK_URL", "https://proxy.example/jobs/callback/", "https://proxy.example/jobs/callback"),
        (
            "JOB_SERVER_URL",
            "https://jobs.example.com:8443/start?tenant=1",
            "https://jobs.example.com:8443/start?tenant=1",
        ),
        ("JOB_SERVER_URL", "http://[::1]:8080/start", "http://[::1]:8080/start"),
        ("JOB_SERVER_URL", "HTTPS://Jobs.Example.com/Start?Tenant=A", "https://jobs.example.com/Start?Tenant=A"),
        ("JOB_SERVER_URL", "http://User:Pass@JOBS:80/start", "http://User:Pass@jobs:80/start"),
        ("JOB_SERVER_URL", "http://jobs.example.com", "http://jobs.example.com/"),
        ("JOB_SERVER_URL", "http://jobs.example.com:/start", "http://jobs.example.com/start"),
        ("CALLBACK_URL", "HTTP://Proxy.Example", "http://proxy.example"),
        ("ADMIN_NAMES", "Ops.Example, proxy", ("ops.example", "proxy")),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("HOST", "[::1]", "::1"),
        ("HOST", "LocalHost", "localhost"),
        ("HOST", "0.0.0.0", "0.0.0.0"),  # noqa: S104 - nothing is bound
        ("LOG_LEVEL", "INFO", "info"),
        ("LOG_FORMAT", "Json", "json"),
        ("API_KEYS", "one, two", ("one", "two")),
        ("API_KEYS", "a=b#c", ("a=b#c",)),
        ("API_KEYS", "a$b, $c$(d", ("a$b", "$c$(d")),
        ("JOB_SERVER_URL", "https://jobs.example.com/v4/$batch", "https://jobs.example.com/v4/$batch"),
        (
            "ADMIN_KEYS",
            "anna:act:0123456789abcdef, prometheus:look:a:b:c:0123456789",
            (AdminKey("anna", Role.ACT, "0123456789abcdef"), AdminKey("prometheus", Role.LOOK, "a:b:c:0123456789")),
        ),
        ("JOURNAL", "", ""),
        ("JOURNAL", "postgresql://u:p%40@one,two:5433/jobs", "postgresql://u:p%40@one,two:5433/jobs"),
        ("JOURNAL", "postgres:///jobs?service=jobs", "postgres:///jobs?service=jobs"),
    ],
)
def test_a_good_value_is_taken(name: str, text: str, value: object) -> None:
    """Each kind of setting, at the limits of what it takes."""
    assert getattr(load({name: text}), name.lower()) == value


def test_the_environment_comes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    """Even an empty variable in the environment counts: it can disable a setting of the file."""
    file = tmp_path / ".env"
    file.write_text("# a comment\nPORT=4000\nMAX_JOBS=7\nJOURNAL=somewhere\n", encoding="utf-8")
    settings = load({"PORT": "5000", "JOURNAL": ""}, file)
    assert (settings.port, settings.max_jobs, settings.journal, settings.worker_spares) == (5000, 7, "", 8)


def test_a_bad_value_in_the_file_is_told_like_any_other(tmp_path: Path) -> None:
    """With the same words."""
    file = tmp_path / ".env"
    file.write_text("MAX_JOBS=none\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"^MAX_JOBS: got 'none'"):
        load({}, file)


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    """The defaults are complete."""
    assert load({}, tmp_path / "nothing") == load({})


def test_settings_cannot_be_changed() -> None:
    """They are read once."""
    with pytest.raises(FrozenInstanceError):
        load({}).port = 1  # type: ignore[misc] # that is the point


def test_unknown_variables_are_nobodys_business() -> None:
    """The environment is full of other programs' variables."""
    assert load({"PATH": "/bin", "PORTS": "x"}) == load({})


def test_the_env_file_has_every_setting_with_its_default_and_a_comment() -> None:
    """`.env` of the repository documents each setting, and has the defaults."""
    file = ROOT / ".env"
    comment, found = "", {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment += line.strip("#- ")
        elif not line:
            comment = ""
        else:
            name, equals, value = line.partition("=")
            assert equals, line
            assert comment, f"{name} has no comment"
            found[name] = value
    assert found == {name: text for name, (text, _) in CONTRACT.items()}
    assert load({}, file) == load({})


def test_every_setting_has_a_field_and_every_field_a_variable() -> None:
    """A field's name in capitals is its variable; it is not named anywhere else."""
    assert {name.lower() for name in variables()} == set(Settings.__dataclass_fields__)


def test_a_relative_path_that_leads_nowhere_says_where_it_begins() -> None:
    """At the proxy's folder, which need not be the shell's."""
    here = Path.cwd()
    with pytest.raises(SettingsError, match=rf"^JOB_SERVER_CAFILE: .*; a relative path begins at {here}$"):
        load({"JOB_SERVER_CAFILE": "ca.pem"})
    with pytest.raises(SettingsError, match=rf"^API_KEYS_FILE: '{here}/keys.txt' cannot be read: "):
        load({"API_KEYS_FILE": "keys.txt"})


@pytest.mark.parametrize(
    "name",
    ["TLS_CERTFILE", "TLS_KEYFILE", "JOB_SERVER_CAFILE", "API_KEYS_FILE", "ADMIN_KEYS_FILE"],
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "name"])
def test_what_is_to_be_read_has_an_end(tmp_path: Path, name: str, kind: str) -> None:
    """Reading a pipe that nobody writes to, or a device, would hang: at the start, and at each SIGHUP."""
    place = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path, "name": tmp_path / ("n" * 300)}
    os.mkfifo(tmp_path / "pipe")
    other = {"TLS_CERTFILE": "TLS_KEYFILE", "TLS_KEYFILE": "TLS_CERTFILE"}.get(name)
    beside = {other: __file__} if other else {}
    with pytest.raises(SettingsError, match=rf"^{name}: ") as caught:
        load({name: str(place[kind]), **beside})
    assert "\n" not in str(caught.value)
