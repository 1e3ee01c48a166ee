"""The loader: errors in a profile are reported with their place."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.job_server import loader
from shared.worker_config import JobServer, WorkerConfig

SOUND = """
name = "sound"
[submit]
url = "/jobs"
body = { hook = "{callback_url}" }
[callback]
state = "body.state"
succeeded = ["done"]
"""

HEAD = 'name = "x"\n'
SUBMIT = '[submit]\nbody = { hook = "{callback_url}" }\n'
CALLBACK = '[callback]\nstate = "body.state"\nsucceeded = ["done"]\n'
FORM = "application/x-www-form-urlencoded"
HMAC = '[verify]\nscheme = "hmac"\nheader = "X"\n'
HEADER = '[verify]\nscheme = "header"\nheader = "X"\n'
FIXED = 'path = "/callback/a"\ncorrelate = "body.a"\n'
STATUS = '[status]\nurl = "/s/{id}"\n'

WRONG = {
    "nam = 1": "there is no key `nam` at the top; did you mean `name`?",
    "zzz = 1": "there is no key `zzz` at the top; known are name, description, documentation, ",
    "[calback]": "there is no key `calback` at the top; did you mean `callback`?",
    "[submit]\nacepted = [200]": "there is no key `acepted` in [submit]; did you mean `accepted`?",
    "[[sample]]\nkid = 1": "there is no key `kid` in sample[0]; did you mean `kind`?",
    f"{HEAD}{SUBMIT}": "the top: missing key callback",
    f"name = 1\n{SUBMIT}{CALLBACK}": "name: Expected str, got int",
    f'{HEAD}{SUBMIT}accepted = ["2xx"]\n{CALLBACK}': "submit.accepted[0]: Expected int, got str",
    f'{HEAD}{SUBMIT}state = "body.a b"\n{CALLBACK}': "submit.state: 'body.a b' is no expression: ",
    f'{HEAD}{SUBMIT}rejected = "!"\n{CALLBACK}': "submit.rejected: '!' is no expression: ",
    f'{HEAD}{SUBMIT}rejected = "!body.ok"\n{CALLBACK}': "submit.rejected: '!body.ok': `!a.b` means `(!a).b`; write",
    f'{HEAD}{SUBMIT}rejected = "body.code != 200"\n{CALLBACK}': (
        "submit.rejected: 'body.code != 200' is no expression: ... a number needs backticks: `1`"
    ),
    f'{HEAD}{SUBMIT}outputs = {{ id = "headers.x-id" }}\n{CALLBACK}': (
        "submit.outputs.id: 'headers.x-id' is no expression: ... a name with a hyphen needs quotes: headers.\"x-name\""
    ),
    f'{HEAD}{SUBMIT}outputs = {{ id = "basenam(headers.location)" }}\n{CALLBACK}': (
        "submit.outputs.id: 'basenam(headers.location)': there is no function basenam(); did you mean basename()?"
    ),
    f'{HEAD}{SUBMIT}[callback]\nsucceeded = ["a"]\nstate = "not_null(body.*.a[?zzz(@)])"': (
        "callback.state: 'not_null(body.*.a[?zzz(@)])': there is no function zzz(); there are abs, avg, basename, "
    ),
    f'{HEAD}{SUBMIT}[callback]\nstate = "status"\nsucceeded = ["a"]': (
        "callback.state: 'status': there is no `status` to look at; there are body, headers, method, query, route"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}error = "body.a || errors[0].b"': (
        "callback.error: 'body.a || errors[0].b': there is no `errors` to look at"
    ),
    f'{HEAD}[submit]\nbody = {{ a = ["{{calback_url}}"] }}\n{CALLBACK}': (
        "submit: there is no placeholder {calback_url}; known are {callback_token}, {callback_url}, {job_id}, "
        "{job_uuid}, {path}, {env:NAME}"
    ),
    f"{HEAD}{SUBMIT}{CALLBACK}{STATUS}": (
        "status: there is no placeholder {id}; known are ... {path}, {env:NAME} and outputs"
    ),
    f'{HEAD}[submit]\nbody = {{ a = "${{callback_url}}" }}\n{CALLBACK}': (
        "submit.body: got ${callback_url}, takes {callback_url}"
    ),
    f'{HEAD}{SUBMIT}headers = {{ A = "a {{{{callback_url/x}}}}" }}\n{CALLBACK}': (
        "submit.headers: got {{callback_url/x}}, takes {callback_url/x}"
    ),
    f'{HEAD}{SUBMIT}headers = {{ A = "${{env:KEY}}" }}\n{CALLBACK}': "submit.headers: got ${env:KEY}, takes {env:KEY}",
    f'{HEAD}{SUBMIT}{CALLBACK}[sample]\nkind = "job"': "sample: takes [[sample]], with two brackets",
    f'{HEAD}{SUBMIT}{CALLBACK}[[sample]]\nkind = "callback"\nexpect = "progress"\nmethod = "GET"': (
        "sample[0].method: got 'GET', takes of a callback one of POST, PUT"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[[sample]]\nkind = "callback"\nexpect = "progress"\nroute = "ok"': (
        "sample[0].route: got 'ok', but no {callback_url/ok} is sent"
    ),
    f'{HEAD}{SUBMIT}headers = {{ A = "Bearer $KEY" }}\n{CALLBACK}': "submit.headers: got $KEY, takes {env:KEY}",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "${{HOOK_KEY}}"': "verify.secret: got ${HOOK_KEY}, takes {env:HOOK_KEY}",
    f"{HEAD}{SUBMIT}{CALLBACK}failed = {{}}": "callback.failed: Expected array, got object",
    f'{HEAD}{SUBMIT}{CALLBACK}{HEADER}value = "callback_token"': (
        "verify.value: got 'callback_token', takes {callback_token}"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "env:KEY"': "verify.secret: got 'env:KEY', takes {env:KEY}",
    f"{HEAD}{SUBMIT}respond_async = {{ hook = 1 }}\n{CALLBACK}": (
        "submit.respond_async: clients cannot send hook, as body sets it; put it in overwrites"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[[sample]]\nkind = "job"\n[[sample]]\nkind = "jo"': (
        "sample[1].kind: got 'jo', takes one of job, reply, callback, challenge, "
    ),
    f'{HEAD}{SUBMIT}rejected = "body.a == null"\n{CALLBACK}': (
        "submit.rejected: 'body.a == null': null needs backticks: `null`"
    ),
    f'{HEAD}{SUBMIT}rejected = "body.a.0"\n{CALLBACK}': "submit.rejected: ... in brackets: jobs[0]",
    f"{HEAD}{SUBMIT}rejected = \"body.a = 'b'\"\n{CALLBACK}": "submit.rejected: ... `==` compares",
    f'{HEAD}{SUBMIT}rejected = "body.a or body.b"\n{CALLBACK}': "submit.rejected: ... write `&&` and `||`",
    f'{HEAD}{SUBMIT}rejected = "$.a"\n{CALLBACK}': "submit.rejected: ... begins with a name: body.state",
    f'{HEAD}{SUBMIT}outputs = {{ id = "body.id" }}\n{CALLBACK}[status]\nurl = "/s/{{id/x}}"': (
        "status: there is no placeholder {id/x}; known are "
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/{{callback_url}}"': "status: there is no placeholder {callback_url}; ",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "http://other/"': "status.url: got 'http://other/', takes what is append",
    f"{HEAD}[submit]\nbody = {{ a = 1 }}\n{CALLBACK}": "submit: nothing tells the job server {callback_url}",
    f'{HEAD}{SUBMIT}outputs = {{ job_id = "body.id" }}\n{CALLBACK}': "submit.outputs: {job_id} is the proxy's own",
    f'{HEAD}{SUBMIT}outputs = {{ Id = "body.id" }}\n{CALLBACK}': "submit.outputs: `Id` cannot be an output's name",
    f'{HEAD}{SUBMIT}[callback]\nstate = "body.a"': "callback: missing key succeeded",
    f'{HEAD}{SUBMIT}[callback]\nsucceeded = ["a"]': "callback: missing key state, which says what succeeded",
    f"{HEAD}{SUBMIT}[callback]": "callback: missing key state; it may be left out only with notification_only = true",
    f'{HEAD}{SUBMIT}{CALLBACK}failed = ["done"]': "callback: 'done' stands twice in succeeded and failed",
    f'{HEAD}{SUBMIT}running = ["a"]\n{CALLBACK}': "submit: missing key state, which says what running is compared with",
    f"{HEAD}{SUBMIT}[callback]\nnotification_only = true": "callback.notification_only: there is no [status] and no",
    f'{HEAD}{SUBMIT}{CALLBACK}path = "/callback/a"': "callback: path and correlate go together",
    f'{HEAD}{SUBMIT}{CALLBACK}path = "/a"\ncorrelate = "body.a"': "callback.path: got '/a', takes /callback/ and",
    f'{HEAD}{SUBMIT}{CALLBACK}correlate_with = "id"': "callback.correlate_with: got 'id', takes one of ",
    f'{HEAD}{SUBMIT}[callback]\nnotification_only = true\n[status]\nurl = "/a"': "status: missing key state",
    f'{HEAD}{SUBMIT}{CALLBACK}[verify]\nscheme = "hmac"\nsecret = "a"': "verify: missing key header, which the schem",
    f'{HEAD}{SUBMIT}{CALLBACK}[verify]\nscheme = "jwt"': "verify.scheme: got 'jwt', takes one of header, ",
    f'{HEAD}[server]\npage = "js:{{job_id}}"\n{SUBMIT}{CALLBACK}': "server.page: got 'js:{job_id}', takes an address ",
    f'{HEAD}[server]\npage = "http://a/{{id}}"\n{SUBMIT}{CALLBACK}': "server.page: there is no placeholder {id}; known",
    f'{HEAD}[server]\npage = "http://a/{{env:A}}"\n{SUBMIT}{CALLBACK}': "server.page: people see it, so it takes no {e",
    f'{HEAD}[server]\npage = "https://{{job_id}}/a"\n{SUBMIT}{CALLBACK}': "server.page: got 'https://{job_id}/a', take",
    f'{HEAD}[server]\npage = "https://a{{job_id}}"\n{SUBMIT}{CALLBACK}': "server.page: got 'https://a{job_id}', takes ",
    f'{HEAD}{SUBMIT}url = "{{path}}"\n{CALLBACK}': "submit.url: got '{path}', takes /path: its beginning may not",
    f'{HEAD}{SUBMIT}url = "{{job_id/a}}"\n{CALLBACK}': "submit.url: got '{job_id/a}', takes /path: its beginning may",
    f'{HEAD}{SUBMIT}{CALLBACK}[cancel]\nurl = "{{job_uuid}}/a"': "cancel.url: got '{job_uuid}/a', takes /path: its be",
    f'name = "a/b"\n{SUBMIT}{CALLBACK}': "name: got 'a/b', takes letters, digits, `.`, `_` and `-`: it is a part of ad",
    f'{HEAD}documentation = "readme"\n{SUBMIT}{CALLBACK}': "documentation: got 'readme', takes a URL",
    f'{HEAD}description = "a\\nb"\n{SUBMIT}{CALLBACK}': "description: got 'a\\nb', takes one line",
    f'{HEAD}[server]\nurl = "ftp://a"\n{SUBMIT}{CALLBACK}': "server.url: got 'ftp://a', takes an http:// or https:// a",
    f"{HEAD}[server]\nheaders = {{ A = 1 }}\n{SUBMIT}{CALLBACK}": "server.headers.A: Expected str, got int",
    f'{HEAD}[server]\nheaders = {{ A = "b\\r\\nC: d" }}\n{SUBMIT}{CALLBACK}': "server.headers.A: got 'b\\r\\nC: d', ta",
    f'{HEAD}[server]\nheaders = {{ "A B" = "c" }}\n{SUBMIT}{CALLBACK}': "server.headers: got 'A B', takes a header's n",
    f'{HEAD}[server]\nheaders = {{ A = "b", a = "c" }}\n{SUBMIT}{CALLBACK}': "server.headers: `a` stands there twice",
    f'{HEAD}[server]\nheaders = {{ A = "{{callback_url}}" }}\n{SUBMIT}{CALLBACK}': "server.headers: there is no placeh",
    f'{HEAD}[server]\nheaders = {{ A = "{{id}}" }}\n{SUBMIT}outputs = {{ id = "body.id" }}\n{CALLBACK}': (
        "server.headers: there is no placeholder {id}; known are "
    ),
    f'{HEAD}{SUBMIT}headers = {{ content-length = "5" }}\n{CALLBACK}': (
        "submit.headers: `content-length` is set by whoever sends the request"
    ),
    f'{HEAD}{SUBMIT}method = "post"\n{CALLBACK}': "submit.method: got 'post', takes one of GET, POST, PUT, PATCH, DELE",
    f'{HEAD}{SUBMIT}url = "/a b"\n{CALLBACK}': "submit.url: got '/a b', takes a URL's characters; ",
    f"{HEAD}{SUBMIT}accepted = [99]\n{CALLBACK}": "submit.accepted: got 99, takes statuses from 200 to 599",
    f"{HEAD}{SUBMIT}accepted = [202]\nbusy = [202]\n{CALLBACK}": "submit: 202 stands in accepted and in busy",
    f'{HEAD}[submit]\nbody = {{ a = "{{callback_url}}", b = [{{ c = nan }}] }}\n{CALLBACK}': (
        "submit.body.b[0].c: got 'nan', takes what JSON has: "
    ),
    f"{HEAD}{SUBMIT}{CALLBACK}[cancel]\nurl = '/a'\nbody = {{ a = 1 }}\nheaders = {{ content-type = '{FORM}; a=b' }}": (
        f"cancel.headers: got content-type '{FORM}; a=b', but `body` is sent as JSON"
    ),
    f"{HEAD}{SUBMIT}{CALLBACK}[cancel]\nurl = '/a'\nbody = {{ at = 2026-11-26 }}": "cancel.body.at: got '2026-11-26', ",
    f'{HEAD}[submit]\nform = {{ "a\\"b" = "{{callback_url}}" }}\n{CALLBACK}': "submit.form: got 'a\"b', takes the name",
    f"{HEAD}{SUBMIT}headers = {{ A = ' {{\"a\": [{{path}}]}}' }}\n{CALLBACK}": (
        "submit.headers: in JSON, {path} belongs in quotes"
    ),
    f'{HEAD}{SUBMIT}overwrites = ["hok"]\n{CALLBACK}': "submit.overwrites: got 'hok', takes what body or form sets: ho",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/a"\nbody = {{ id = "{{job_id}}" }}': (
        "status.method: got 'GET', takes a method that sends a body, such as POST"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[result]\nurl = "/a"\nmethod = "POST"\nbody = {{ a = nan }}': "result.body.a: got",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/a"\nmethod = "POST"\nbody = {{ id = "{{id}}" }}': (
        "status: there is no placeholder {id}; known are "
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/a"\nafter = nan': "status.after: got nan, takes seconds from 0 to 1000",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/a"\nevery = 0': "status.every: got 0.0, takes seconds from 0.1 to 1000",
    f'{HEAD}{SUBMIT}{CALLBACK}[verify]\nscheme = "header"\nheader = "X Y"\nvalue = "a"': "verify.header: got 'X Y', ta",
    f'{HEAD}{SUBMIT}{CALLBACK}[verify]\nscheme = "header"\nheader = "X"\nvalue = "a"\nsecret = "b"': (
        "verify: the scheme header has no secret"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}[[sample]]\nkind = "reply"\nexpect = "sucess"': (
        "sample[0].expect: got 'sucess', takes of a reply one of running, succeeded, "
    ),
    f'{HEAD}{SUBMIT}[callback]\nsucceeded = ["a"]\nstate = "length(body.a, body.b)"': (
        "callback.state: 'length(body.a, body.b)': length() takes 1, got 2"
    ),
    f'{HEAD}{SUBMIT}[callback]\nsucceeded = ["a"]\nstate = "not_null()"': (
        "callback.state: 'not_null()': not_null() takes 1 or more, got 0"
    ),
    f"{HEAD}{SUBMIT}[callback]\nsucceeded = ['a']\nstate = 'body.a[?b != \"c\"]'": (
        "callback.state: 'body.a[?b != \"c\"]': \"c\" is the name of a member; a text is 'c'"
    ),
    f"{HEAD}{SUBMIT}[callback]\nsucceeded = ['a']\nstate = 'body.a || headers.\"X-State\"'": (
        "callback.state: 'body.a || headers.\"X-State\"': names of headers are in lower case here: x-state"
    ),
    f'{HEAD}{SUBMIT}[callback]\nsucceeded = ["a"]\nstate = "body.a-b"': (
        "callback.state: 'body.a-b' is no expression: ... a name with a hyphen needs quotes: headers.\"x-name\""
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "{{env:MY-SECRET}}"': "verify.secret: {env:MY-SECRET} is no placeholder; ",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "{{env:A}}b}}"': "verify.secret: } is no placeholder; names are letters, ",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nprefix = "{{job_id}}"': "verify.prefix: got '{job_id}', takes no ",
    f'{HEAD}{SUBMIT}headers = {{ A = "B {{env:}}" }}\n{CALLBACK}': "submit.headers: {env:} is no placeholder; names ar",
    f'{HEAD}[server]\nheaders = {{ A = "{{Env:B}}" }}\n{SUBMIT}{CALLBACK}': "server.headers: {Env:B} is no placeholder",
    f'{HEAD}{SUBMIT}{CALLBACK}[cancel]\nurl = "/"\nbody = {{ a = ["{{env:B C}}"] }}': "cancel.body: {env:B C} is no pl",
    f'{HEAD}{SUBMIT}url = "/jobs/{{job-id}}"\n{CALLBACK}': "submit.url: {job-id} is no placeholder; names are letters",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/jobs/{{Job_id}}"': "status.url: {Job_id} is no placeholder; names are ",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/jobs/{{job_id"': "status.url: {job_id is no placeholder; names are let",
    f'{HEAD}{SUBMIT}query = {{ a = "{{callbackUrl}}" }}\n{CALLBACK}': "submit.query: {callbackUrl} is no placeholder; ",
    f'{HEAD}{SUBMIT}{CALLBACK}{HEADER}value = "{{job_uuid}}"': (
        "verify: there is no placeholder {job_uuid}; known are {callback_token}, {job_id}, {env:NAME}"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "{{path}}"': "verify: there is no placeholder {path}; known are {callback",
    f"{HEAD}{SUBMIT}{CALLBACK}{FIXED}{HEADER}value = '{{callback_token}}'": (
        "verify: there is no placeholder {callback_token}; known are {env:NAME}"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nsigned = "{{timestamp}}."\ntimestamp = "t="': (
        "verify.signed: got '{timestamp}.', takes {body} once, and {timestamp} and {url} if they are signed as well"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nsigned = "{{job_id}}{{body}}"': "verify.signed: got '{job_id}{body}'",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nsigned = "{{Url}}{{body}}"': "verify.signed: {Url} is no placeholder",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nsigned = "{{timestamp}}.{{body}}"': (
        "verify: {timestamp} in signed and the key timestamp, which says where it is, go together"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\ntimestamp = "X-At"': "verify: {timestamp} in signed and the key ",
    f'{HEAD}{SUBMIT}{CALLBACK}{HMAC}secret = "a"\nsigned = "{{timestamp}}{{body}}"\ntimestamp = "a b"': (
        "verify.timestamp: got 'a b', takes a header's name"
    ),
    f'{HEAD}{SUBMIT}{CALLBACK}{HEADER}value = "a"\ntimestamp = "X-At"': "verify: ",
    f'{HEAD}{SUBMIT}{CALLBACK}challenge = "query.token"': "callback.challenge: takes a path as well: only a ",
    f'{HEAD}{SUBMIT}{CALLBACK}{FIXED}challenge = "token"': "callback.challenge: 'token': there is no `token`",
    f"{HEAD}{SUBMIT}{CALLBACK}get = true\njson_only = true": "callback: get and json_only exclude each other: ",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/s"\noutputs = {{ A = "body.a" }}': "status.outputs: `A` cannot be an ",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/s"\noutputs = {{ a = "a" }}': "status.outputs.a: 'a': there is no `a`",
    f'{HEAD}{SUBMIT}{CALLBACK}[status]\nurl = "/s/{{a}}"\noutputs = {{ a = "body.a" }}': (
        "status: there is no placeholder {a}; known are "
    ),
    f'{HEAD}{SUBMIT}query = {{ a = "1" }}\nclient_query = ["b", "a"]\n{CALLBACK}': "submit.client_query: got 'a', ",
    f'{HEAD}{SUBMIT}url = "/?a=1"\nclient_query = ["a"]\n{CALLBACK}': "submit.client_query: got 'a', takes parameters ",
    f'{HEAD}{SUBMIT}client_query = [""]\n{CALLBACK}': "submit.client_query: got '', takes parameters that neither ",
    "name = ": "Invalid value (at end of document)",
    f"{HEAD}{SUBMIT}[[callback]]": "callback: Expected object, got array",
}


@pytest.mark.parametrize(("text", "reason"), list(WRONG.items()))
def test_what_is_wrong_is_named_with_its_place(text: str, reason: str) -> None:
    """An unknown or missing key, a wrong type, an invalid expression or placeholder."""
    with pytest.raises(ValueError, match=r".") as caught:
        loader.parse(text)
    begin, _, end = reason.partition(" ... ")
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize(
    "state",
    [
        "body.headers.State",
        """body.a == 'x == "y"'""",
        """body.jobs[?headers.State == 'a'] | [0].b""",
        'body."a" == `1`',
    ],
)
def test_what_only_looks_like_a_mistake_is_an_expression(state: str) -> None:
    """Members of the body have any case, and texts any content."""
    loader.parse(f"{HEAD}{SUBMIT}[callback]\nsucceeded = ['a']\nstate = {json.dumps(state)}")


def test_braces_are_text_where_they_can_be_meant() -> None:
    """JSON in a header or a query, and templates of others in a body."""
    submit = """url = '/jobs/{job_id}'
query = { where = '{"id": "{job_id}"}' }
headers = { Prefer = '{"a": {}}' }
"""
    profile = loader.parse(
        f"{HEAD}[submit]\n{submit}body = {{ a = '{{callback_url}} {{{{Name}}}} {{A}}' }}\n{CALLBACK}"
    )
    assert profile.submit.query == {"where": '{"id": "{job_id}"}'}


def test_what_is_nested_too_deeply_is_wrong_as_well() -> None:
    """And ends the start with one line, like any other error."""
    for state in ("(" * 5_000 + "body" + ")" * 5_000, "body.a"):
        deep = "[" * 5_000 + "]" * 5_000 if state == "body.a" else "1"
        text = f'{HEAD}[submit]\nbody = {{ a = "{{callback_url}}", b = {deep} }}\n[callback]\nstate = "{state}"\n'
        with pytest.raises(ValueError, match=r"^something in it is nested too deeply$"):
            loader.parse(f'{text}succeeded = ["a"]\n')


def test_a_name_means_a_file_of_the_folder_and_anything_else_a_path(tmp_path: Path) -> None:
    """A name with a slash, or one that ends in .toml, is a path."""
    file = tmp_path / "mine.toml"
    file.write_text(SOUND, encoding="utf-8")
    assert loader.load(str(file)).name == "sound"
    assert loader.path_of("cog") == loader.FOLDER / "cog.toml"
    assert loader.path_of("mine.toml") == Path("mine.toml")


def test_a_profile_may_begin_with_a_mark_of_its_byte_order(tmp_path: Path) -> None:
    """As some editors write it."""
    file = tmp_path / "mine.toml"
    file.write_text(SOUND, encoding="utf-8-sig")
    assert loader.load(str(file)).name == "sound"


def test_a_profile_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there."""
    file = tmp_path / "mine.toml"
    file.write_text(SOUND.replace("sound", "s\u00f6und"), encoding="latin-1")
    with pytest.raises(SettingsError, match=r"^PROFILE: .*mine.toml: it is not UTF-8 \(byte 10\)$"):
        loader.load(str(file))

    def read_text(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(SettingsError, match=r"^PROFILE: .*mine.toml cannot be read: Permission denied$"):
        loader.load(str(file))


def test_a_profile_in_a_folder_that_is_closed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there: systemd's `ProtectHome=` closes /home and /root to a service."""

    def no_stat(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", no_stat)
    with pytest.raises(SettingsError, match=r"^PROFILE: /root/mine.toml cannot be read: Permission denied$"):
        loader.load("/root/mine.toml")


def test_a_profile_that_is_not_there_is_one_line_that_names_those_that_are() -> None:
    """Like for any setting."""
    with pytest.raises(SettingsError, match=r"^PROFILE: got 'nothing', takes a profile's name \(.*spreedly.*\) or "):
        loader.load("nothing")


def test_of_a_path_that_leads_to_no_file_the_whole_is_told() -> None:
    """A relative one begins at the proxy's folder, which need not be the shell's."""
    whole = re.escape(str(Path.cwd() / "cog.toml"))
    with pytest.raises(SettingsError, match=rf"^PROFILE: got './cog.toml', and there is no file '{whole}'$"):
        loader.load("./cog.toml")


def test_a_profile_that_is_wrong_is_one_line_that_names_its_file(tmp_path: Path) -> None:
    """Like for any setting."""
    file = tmp_path / "mine.toml"
    file.write_text("nme = 1", encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"^PROFILE: {file}: there is no key `nme`"):
        loader.load(str(file))


def test_a_profile_reaches_a_worker_as_it_is() -> None:
    """Nothing is lost, and tuples do not become lists."""
    profile = loader.load("spreedly")
    config = WorkerConfig(
        job_servers=(
            JobServer(
                url="http://a/",
                profile=replace(profile, sample=()),
                secrets={"env:A": "b"},
                secret_files={"env:A": "c"},
            ),
        ),
        max_body_bytes=1,
        submit_retries=1,
        lost_reply_wait_s=1,
        max_jobs=1,
    )
    assert WorkerConfig.decode(config.encode()) == config
    assert "'b'" not in repr(config)


def test_a_secret_is_taken_from_the_environment() -> None:
    """And a missing one ends the start, before anything is started."""
    profile = loader.load("replicate")
    environ = {"REPLICATE_API_TOKEN": "a", "REPLICATE_WEBHOOK_SECRET": "b", "OTHER": "c"}
    assert loader.secrets_of(profile, environ) == {"env:REPLICATE_API_TOKEN": "a", "env:REPLICATE_WEBHOOK_SECRET": "b"}
    for name in ("REPLICATE_API_TOKEN", "REPLICATE_WEBHOOK_SECRET"):
        with pytest.raises(SettingsError, match=f"^{name}: got nothing, takes what the profile replicate needs; .*$"):
            loader.secrets_of(profile, environ | {name: ""})
    with pytest.raises(SettingsError, match=r"^REPLICATE_API_TOKEN: .*\nREPLICATE_WEBHOOK_SECRET: .*$"):
        loader.secrets_of(profile, {})


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """As containers provide it, with a line break at its end. What cannot be used is reported, without a value."""
    profile, file = loader.load("replicate"), tmp_path / "token"
    environ = {"REPLICATE_API_TOKEN_FILE": str(file), "REPLICATE_WEBHOOK_SECRET": "b"}
    for content, words in (
        (b"a\n", ""),
        (b"", "got nothing, takes what the profile replicate needs; put it into the file"),
        (b"hidden\nb", "got a value (not shown), takes one line without"),
        (b"\xff", f"{str(file)!r} cannot be read: 'utf-8' codec"),
        (None, f"{str(file)!r} cannot be read: it is no file"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        if not words:
            assert loader.secrets_of(profile, environ)["env:REPLICATE_API_TOKEN"] == "a"
            continue
        with pytest.raises(SettingsError) as caught:
            loader.secrets_of(profile, environ)
        assert str(caught.value).startswith(f"REPLICATE_API_TOKEN_FILE: {words}")
        assert "hidden" not in str(caught.value)
    assert loader.secret_files(profile, environ) == {"env:REPLICATE_API_TOKEN": str(file)}
    given = environ | {"REPLICATE_API_TOKEN": "given"}
    assert (loader.secrets_of(profile, given)["env:REPLICATE_API_TOKEN"], loader.secret_files(profile, given)) == (
        "given",
        {},
    )
    os.mkfifo(file)
    with pytest.raises(SettingsError, match="it is no file"):
        loader.secrets_of(profile, environ)


@pytest.mark.parametrize("end", ["\n", "\r", "\x00"])
@pytest.mark.parametrize(("profile", "name"), [("replicate", "REPLICATE_API_TOKEN"), ("apify", "APIFY_WEBHOOK_SECRET")])
def test_a_secret_that_no_header_can_have_ends_the_start(profile: str, name: str, end: str) -> None:
    """As many secret stores end a file with a new line: each job would fail, or each callback."""
    loaded = loader.load(profile)
    environ = {one.removeprefix("env:"): "hidden" for one in loader.secret_names(loaded)}
    with pytest.raises(SettingsError, match=f"^{name}: got a value .*$") as caught:
        loader.secrets_of(loaded, environ | {name: f"hidden{end}"})
    assert "hidden" not in str(caught.value)


def test_the_key_of_a_signature_may_have_any_characters() -> None:
    """It is sent nowhere."""
    environ = {"REPLICATE_API_TOKEN": "a", "REPLICATE_WEBHOOK_SECRET": "b\nc\n"}
    assert loader.secrets_of(loader.load("replicate"), environ)["env:REPLICATE_WEBHOOK_SECRET"] == "b\nc\n"


def test_status_is_read_as_callbacks_are_unless_it_says_otherwise() -> None:
    """Each key separately."""
    profile = loader.parse(
        f'{HEAD}{SUBMIT}outputs = {{ id = "body.id" }}\n{CALLBACK}failed = ["broken"]\nresult = "body.a"\n'
        f'{STATUS}state = "body.s"\n'
    )
    assert profile.status is not None
    status = profile.status
    assert (status.state, status.succeeded, status.failed, status.result, status.after) == (
        "body.s",
        ("done",),
        ("broken",),
        "body.a",
        30.0,
    )


def test_a_profile_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to would hang."""
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", tmp_path / f"{'n' * 300}.toml", tmp_path):
        with pytest.raises(SettingsError, match=rf"^PROFILE: got .*, and there is no file '{path}'$"):
            loader.load(str(path))
