"""Who may look and act on the admin address."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from multidict import CIMultiDict
from starlette.routing import Route
from starlette.types import Message

from proxy.api.operators.access.access import is_open, needed_role
from shared.setting_kinds import Role
from shared.settings import load
from tests.support.asgi import request_scope
from tests.support.http import Answer, problem
from tests.support.waiting import eventually
from tests.support.whole_app import WholeApp

LOOK: Final = "look-0123456789abcdef"
ACT: Final = "act-0123456789abcdef"
KEYS: Final[dict[str, Any]] = {"ADMIN_KEYS": f"lena:look:{LOOK},anna:act:{ACT}"}
GATEWAY: Final[dict[str, Any]] = {
    "ADMIN_USER_HEADER": "X-User",
    "ADMIN_TRUSTED_PEERS": "10.0.0.7",
    "ADMIN_ACTING_USERS": "anna,ben@example.com",
}
HERE: Final = {"Host": "127.0.0.1:3001", "Origin": "http://127.0.0.1:3001"}
FORM: Final = HERE | {"Content-Type": "application/x-www-form-urlencoded"}
#: The headers of the dashboard's own scripts with requests that change something.
PAGE: Final = HERE | {"X-Requested-By": "dashboard", "Sec-Fetch-Site": "same-origin"}
#: The routes without authentication.
OPEN: Final = {("GET", "/login"), ("POST", "/login"), ("POST", "/logout")}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with a key for each role."""
    whole = WholeApp(monkeypatch, **KEYS)
    yield whole
    await whole.close()


def bearer(key: str) -> dict[str, str]:
    """Return the header of a program."""
    return {"Authorization": f"Bearer {key}"}


def cookie(answer: Answer) -> dict[str, str]:
    """Return the session's cookie as the browser returns it."""
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


async def log_in(
    app: WholeApp, key: str = ACT, query: str = "", headers: Mapping[str, str] = FORM, **members: Any
) -> Answer:
    """Send the form."""
    body = urlencode({"key": key}).encode()
    return await app.ask_admin("POST", "/login", query_string=query.encode(), body=body, headers=headers, **members)


def admin_routes(app: WholeApp) -> Iterator[tuple[str, str]]:
    """Every method and path of the admin address; HEAD is like GET."""
    routes: list[Route] = app.routes[2][1]
    for route in routes:
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path


async def status_of(app: WholeApp, method: str, path: str, headers: Mapping[str, str]) -> int:
    """Return the status of a request, without waiting for an endless answer."""
    path = path.replace("{id}", "unknown")
    if path == "/events":
        method = "HEAD"
    return (await app.ask_admin(method, path, headers=headers)).status


async def test_every_route_is_for_one_role_and_refuses_everybody_below(app: WholeApp) -> None:
    """GET looks, everything else acts, a few are open; all routes are tested here."""
    seen = set()
    for method, path in admin_routes(app):
        seen.add((method, path))
        if is_open(path):
            assert (method, path) in OPEN or (method == "GET" and path.startswith("/static/")), path
            assert await status_of(app, method, path, {}) not in {401, 303}, path
            continue
        assert method in {"GET", "POST"}, "a new method has to be given a role"
        assert await status_of(app, method, path, {}) == 401, path
        for headers in (bearer("wrong-0123456789abcdef"), bearer(""), {"Authorization": f"Basic {ACT}"}):
            app.parts.operators.gate._attempts = type(app.parts.operators.gate._attempts)()  # noqa: SLF001 - as many as there are routes
            assert await status_of(app, method, path, headers) == 401, path
        looking = await status_of(app, method, path, bearer(LOOK))
        if needed_role(method) is Role.LOOK:
            assert looking in {200, 404}, path
        else:
            assert looking == 403, path
    assert seen >= {("POST", "/jobs/{id}/stop"), ("GET", "/metrics"), ("GET", "/"), ("GET", "/session")}
    assert len(seen) == len(list(admin_routes(app))), "no method of a path has two routes"


async def test_a_route_takes_one_method(app: WholeApp) -> None:
    """Otherwise its effect would depend on something that the table of routes does not show."""
    for route in app.routes[2][1]:
        assert len((route.methods or set()) - {"HEAD"}) == 1, route.path


async def test_who_acts_is_named_to_operators_only(app: WholeApp) -> None:
    """The key's name is in the record of the stopped job, and in the audit; clients do not see it."""
    job = await app.waiting()
    problem(await app.ask_admin("POST", f"/jobs/{job.id}/stop", headers=bearer(LOOK)), "forbidden", 403)
    answer = await app.ask_admin("POST", f"/jobs/{job.id}/stop", headers=bearer(ACT))
    assert answer.status == 200
    assert answer.document["cancelled_by"] == "the operator anna"
    status = await app.status(job)
    assert "cancelled by an operator;" in status["detail"]
    assert "anna" not in str(status)
    entries = (await app.ask_admin("GET", "/audit", headers=bearer(LOOK))).document["entries"]
    assert ("anna", "stop", job.id, "done") in [(it["who"], it["what"], it["of"], it["outcome"]) for it in entries]


async def test_a_program_needs_its_key_and_nothing_else(app: WholeApp) -> None:
    """Prometheus scrapes with a key that may look; the scheme's case does not matter."""
    for headers in (bearer(LOOK), {"Authorization": f"bearer  {LOOK}"}):
        assert (await app.ask_admin("GET", "/metrics", headers=headers)).status == 200
    answer = await app.ask_admin("GET", "/metrics", headers={"Authorization": LOOK})
    problem(answer, "unauthorized", 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("with_keys", [False, True], ids=["open", "with keys"])
async def test_without_keys_everything_is_as_it_was(monkeypatch: pytest.MonkeyPatch, *, with_keys: bool) -> None:
    """Everybody who reaches the address may look and act; acting needs the dashboard's own page."""
    app = WholeApp(monkeypatch, **(KEYS if with_keys else {}))
    expected = 401 if with_keys else 200
    assert (await app.ask_admin("GET", "/workers")).status == expected
    assert (await app.ask_admin("POST", "/jobs/none/stop", headers=PAGE)).status == (401 if with_keys else 404)
    if not with_keys:
        problem(await app.ask_admin("POST", "/jobs/none/stop"), "forbidden", 403)
        session = (await app.ask_admin("GET", "/session")).document
        assert session == {"name": "", "role": "act", "via": "address", "expires_at": None, "guarded": False}
        assert (await app.ask_admin("GET", "/login")).headers["Location"] == "/"
    await app.close()


async def test_every_admin_key_is_compared_in_constant_time(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if an earlier one matches, for the form and for programs; as hashes, because lengths would leak."""
    calls: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counted(first: bytes, second: bytes) -> bool:
        calls.append((first, second))
        return real(first, second)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for key in (LOOK, ACT, "wrong"):
        await app.ask_admin("GET", "/workers", headers=bearer(key))
        await log_in(app, key)
    assert len(calls) == 2 * 3 * 2
    assert all(len(first) == len(second) == 32 for first, second in calls)


# --- the form and sessions -------------------------------------------------------------------------------------------


async def test_a_browser_is_sent_to_the_form_and_back_to_where_it_wanted_to_go(app: WholeApp) -> None:
    """For a page, the answer is a redirect; for a script's request, a problem document."""
    page = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    sent = await app.ask_admin("GET", "/jobs/abc", query_string=b"code=late&x=1", headers=page)
    assert (sent.status, sent.headers["Location"]) == (303, "/login?next=jobs%2Fabc%3Fcode%3Dlate%26x%3D1")
    query = sent.headers["Location"].partition("?")[2]
    form = await app.ask_admin("GET", "/login", query_string=query.encode(), headers=page)
    assert (form.status, b'type="password"' in form.body) == (200, True)
    back = await log_in(app, query=query)
    assert (back.status, back.headers["Location"]) == (303, "/jobs/abc?code=late&x=1")
    back = await log_in(app, query="next=jobs.html%3Fq%3Da%2A%28b%2Fc%29")
    assert back.headers["Location"] == "/jobs.html?q=a*(b/c)"


async def test_a_session_is_what_its_key_is(app: WholeApp) -> None:
    """It may act if the key may, from the dashboard's own page; scripts cannot read its cookie."""
    answer = await log_in(app)
    assert answer.status == 303
    attributes = {part.strip() for part in answer.headers["Set-Cookie"].split(";")[1:]}
    assert attributes == {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"}
    session = (await app.ask_admin("GET", "/session", headers=cookie(answer))).document
    assert (session["name"], session["role"], session["via"], session["guarded"]) == ("anna", "act", "session", True)
    assert session["expires_at"] > 0
    assert (await app.ask_admin("POST", "/jobs/none/stop", headers=PAGE | cookie(answer))).status == 404
    looking = await log_in(app, LOOK)
    assert (await app.ask_admin("GET", "/workers", headers=cookie(looking))).status == 200
    problem(await app.ask_admin("POST", "/jobs/none/stop", headers=PAGE | cookie(looking)), "forbidden", 403)


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:3001"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Requested-By": ""},
    ],
    ids=str,
)
async def test_what_another_sites_page_sends_is_refused(app: WholeApp, changed: dict[str, str]) -> None:
    """Even with the cookie. Logging in and out, too: an operator would work under a wrong name."""
    session = cookie(await log_in(app))
    headers = {name: value for name, value in (PAGE | FORM | changed).items() if value} | session
    problem(await app.ask_admin("POST", "/jobs/none/stop", headers=headers), "forbidden", 403)
    if "X-Requested-By" not in changed:
        assert (await log_in(app, headers=headers)).status == 403
        assert (await app.ask_admin("POST", "/logout", headers=headers)).status == 403
    assert (await app.ask_admin("GET", "/workers", headers=session)).status == 200


async def test_a_session_that_was_replayed_after_the_log_out_opens_nothing(app: WholeApp) -> None:
    """A copy of its cookie is useless; another session of the same key continues."""
    session, other = cookie(await log_in(app)), cookie(await log_in(app))
    out = await app.ask_admin("POST", "/logout", headers=HERE | session)
    assert (out.status, out.headers["Location"]) == (303, "/login")
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    for _ in range(2):
        problem(await app.ask_admin("GET", "/workers", headers=session), "unauthorized", 401)
    assert (await app.ask_admin("GET", "/workers", headers=other)).status == 200
    assert (await app.ask_admin("POST", "/logout", headers=HERE | session)).status == 303, "again does no harm"


async def test_logging_in_again_ends_the_session_that_the_browser_had(app: WholeApp) -> None:
    """No forgotten token stays valid, and a token that somebody planted in the browser is not adopted."""
    first = cookie(await log_in(app))
    planted = {"Cookie": first["Cookie"].partition("=")[0] + "=planted"}
    second = cookie(await log_in(app, headers=FORM | first))
    assert second != first
    assert (await app.ask_admin("GET", "/workers", headers=first)).status == 401
    third = cookie(await log_in(app, headers=FORM | planted))
    assert third != planted
    assert (await app.ask_admin("GET", "/workers", headers=planted)).status == 401


@pytest.mark.parametrize(
    "value",
    [
        "",
        "async_job_proxy_3000",
        "async_job_proxy_3000=",
        "async_job_proxy_3000=" + "A" * 43,
        f"async_job_proxy_3000={ACT}",
        "async_job_proxy_3000=\x00\xff",
        ";" * 5000,
        "async_job_proxy_3000=a; " * 300,
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_a_cookie_without_a_session_opens_nothing(app: WholeApp, value: str) -> None:
    """Whatever its value; the key itself is not a session."""
    await log_in(app)
    problem(await app.ask_admin("GET", "/workers", headers={"Cookie": value}), "unauthorized", 401)


async def test_a_session_ends_with_its_key(app: WholeApp) -> None:
    """When the keys are reloaded without it; and its role is always the key's current one."""
    anna, lena = cookie(await log_in(app)), cookie(await log_in(app, LOOK))
    app.parts.operators.gate.replace(load({"ADMIN_KEYS": f"lena:act:{LOOK}"}).admin_keys)
    assert (await app.ask_admin("GET", "/workers", headers=anna)).status == 401
    assert (await app.ask_admin("GET", "/workers", headers=bearer(ACT))).status == 401
    assert (await app.ask_admin("GET", "/session", headers=lena)).document["role"] == "act"
    app.parts.operators.gate.replace(load(KEYS).admin_keys)
    assert (await app.ask_admin("GET", "/workers", headers=anna)).status == 401, "it does not come back"


async def test_what_is_being_sent_ends_with_the_session(app: WholeApp) -> None:
    """An open page gets nothing more after the log-out."""
    session = cookie(await log_in(app))
    sent: list[Message] = []
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = request_scope("GET", "/events", headers=session)
    page = asyncio.ensure_future(app.parts.operators.app(scope, receive, send))
    await eventually(lambda: len(sent) > 1)
    assert not page.done()
    await app.ask_admin("POST", "/logout", headers=HERE | session)
    await asyncio.wait_for(page, 10)
    assert not left.is_set()


async def test_what_is_being_sent_ends_with_the_key(app: WholeApp) -> None:
    """A stream that was started with a withdrawn key ends with its next part; one of another key continues."""
    sent: dict[str, list[Message]] = {LOOK: [], ACT: []}
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def stream(key: str) -> None:
        async def send(message: Message) -> None:
            sent[key].append(message)

        await app.parts.operators.app(request_scope("GET", "/events", headers=bearer(key)), receive, send)

    streams = {key: asyncio.ensure_future(stream(key)) for key in sent}
    await eventually(lambda: all(len(messages) > 1 for messages in sent.values()))
    app.parts.operators.gate.replace([key for key in load(KEYS).admin_keys if key.key != LOOK])
    await asyncio.wait((streams[LOOK],), timeout=10)
    assert streams[LOOK].done()
    before = len(sent[ACT])
    await eventually(lambda: len(sent[ACT]) > before)
    left.set()
    await asyncio.gather(*streams.values(), return_exceptions=True)


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/%2f/evil.example",
        "a\r\nSet-Cookie: x=y",
        "?x=\n",
        "@evil.example",
        "a/../../other",
        "house.html/../../../x//evil.com",
        "a" * 5000,
    ],
)
async def test_no_link_leads_from_the_form_to_another_place(app: WholeApp, wanted: str) -> None:
    """The form leads only to pages of this address, whoever made the link."""
    answer = await log_in(app, query=urlencode({"next": wanted}))
    assert (answer.status, answer.headers["Location"]) == (303, "/")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", FORM["Content-Type"], 401),
        (b"key=", FORM["Content-Type"], 401),
        (b"key=%00%ff", FORM["Content-Type"], 401),
        (b"key=<script>", FORM["Content-Type"], 401),
        (b"\xff\xfe", FORM["Content-Type"], 400),
        (b"&".join(b"a=b" for _ in range(20)), FORM["Content-Type"], 400),
        (b"key=" + b"x" * 5000, FORM["Content-Type"], 413),
        (b'{"key": "x"}', "application/json", 415),
        (b"key=x", "", 415),
    ],
)
async def test_a_form_that_is_none_is_refused(app: WholeApp, body: bytes, kind: str, status: int) -> None:
    """And its content is not shown."""
    answer = await app.ask_admin("POST", "/login", body=body, headers=HERE | {"Content-Type": kind})
    assert answer.status == status
    assert b"<script>" not in answer.body
    assert "Set-Cookie" not in answer.headers


async def test_guessing_is_slowed_where_it_comes_from_and_nowhere_else(app: WholeApp) -> None:
    """By the form or as a program: then not even the right key is checked. Sessions and others are not affected."""
    session = cookie(await log_in(app))
    for number in range(10):
        if number % 2:
            assert (await log_in(app, f"guess-{number}")).status == 401
        else:
            assert (await app.ask_admin("GET", "/workers", headers=bearer(f"guess-{number}"))).status == 401
    refused = await app.ask_admin("GET", "/workers", headers=bearer(ACT))
    problem(refused, "too-many-attempts", 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    form = await log_in(app)
    assert (form.status, "Set-Cookie" in form.headers) == (429, False)
    assert b"Try again in" in form.body
    assert (await app.ask_admin("GET", "/workers", headers=session)).status == 200
    elsewhere = await app.ask_admin("GET", "/workers", headers=bearer(ACT), client=("198.51.100.7", 1))
    assert elsewhere.status == 200


# --- behind a gateway ------------------------------------------------------------------------------------------------


@pytest.fixture
async def behind(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end behind a gateway that authenticates operators."""
    whole = WholeApp(monkeypatch, **GATEWAY)
    yield whole
    await whole.close()


async def named(app: WholeApp, peer: str, *names: str, **more: str) -> Answer:
    """Ask for the session, with the gateway's header."""
    headers = [(name.replace("_", "-"), value) for name, value in more.items()]
    headers += [("X-User", name.encode().decode("latin-1")) for name in names]
    return await app.ask_admin("GET", "/session", headers=CIMultiDict(headers), client=(peer, 1))


async def test_the_gateways_users_are_known_by_its_header(behind: WholeApp) -> None:
    """Those in the setting may act, the others look."""
    for name, role in [("anna", "act"), ("ben@example.com", "act"), ("jürgen", "look")]:
        answer = await named(behind, "10.0.0.7", name)
        assert (answer.document["name"], answer.document["role"], answer.document["via"]) == (name, role, "header")


async def test_the_header_is_nothing_from_anybody_else(behind: WholeApp) -> None:
    """Nor from the gateway's own clients, whatever they claim about their address."""
    for peer in ("10.0.0.8", "127.0.0.1", "::ffff:10.0.0.8"):
        assert (await named(behind, peer, "anna")).status == 401
        assert (await named(behind, peer, "anna", X_Forwarded_For="10.0.0.7")).status == 401
    assert (await named(behind, "10.0.0.7")).status == 401
    assert (await named(behind, "::ffff:10.0.0.7", "anna")).status == 200


@pytest.mark.parametrize("names", [("anna", "anna"), ("anna", ""), ("",), ("a" * 200,), ("an\tna\x07",)], ids=str)
async def test_a_header_that_names_nobody_lets_nobody_in(behind: WholeApp, names: tuple[str, ...]) -> None:
    """Two headers may be the client's and the gateway's, and it is unknown which is which."""
    problem(await named(behind, "10.0.0.7", *names), "unauthorized", 401)


async def test_below_a_prefix_and_over_tls_the_session_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cookie is for that path, and only for TLS; the form leads back to that path."""
    app = WholeApp(monkeypatch, **KEYS, TRUSTED_PROXIES="10.0.0.7", ADMIN_NAMES="ops.example")
    gateway = {
        "X-Forwarded-Prefix": "/proxy",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "ops.example",
        "X-Forwarded-For": "203.0.113.9",
    }
    form = {"Origin": "https://ops.example", "Content-Type": FORM["Content-Type"]}
    answer = await log_in(app, headers=gateway | form, client=("10.0.0.7", 1))
    assert answer.headers["Location"] == "/proxy/"
    attributes = {part.strip() for part in answer.headers["Set-Cookie"].split(";")[1:]}
    assert attributes >= {"Path=/proxy/", "Secure", "HttpOnly", "SameSite=Strict"}
    plain = await log_in(app, headers=gateway | FORM, client=("203.0.113.1", 1))
    assert plain.headers["Location"] == "/", "from others these headers mean nothing"
    page = {"Accept": "text/html"}
    sent = await app.ask_admin("GET", "/", headers=gateway | page, client=("10.0.0.7", 1))
    assert sent.headers["Location"] == "/proxy/login"
    assert (await log_in(app, headers=gateway | FORM, client=("10.0.0.7", 1))).status == 403, "not over TLS"
    await app.close()


# --- headers ---------------------------------------------------------------------------------------------------------


async def test_every_answer_forbids_what_is_not_from_here(app: WholeApp) -> None:
    """Pages, data, the form, refusals, unknown paths."""
    asked = [("GET", "/no-such-route", {}), ("GET", "/workers", {"Host": "evil.example"}), ("PUT", "/", bearer(ACT))]
    asked += [(method, path, bearer(ACT)) for method, path in admin_routes(app)]
    for method, path, headers in asked:
        sent = "HEAD" if path == "/events" else method
        answer = await app.ask_admin(sent, path.replace("{id}", "unknown"), headers=headers)
        policy = answer.headers["Content-Security-Policy"]
        if path == "/docs":  # the same page as for clients: no scripts at all, and its only style by its hash
            assert policy.startswith("default-src 'none'; style-src 'sha256-"), path
            continue
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), path
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] in {"no-store", "no-cache"}, path
        assert len(answer.headers.getall("Cache-Control")) == 1, path  # type: ignore[attr-defined]


async def test_no_page_has_code_or_style_of_its_own(app: WholeApp) -> None:
    """The policy would block it."""
    for method, path in admin_routes(app):
        if method != "GET" or path in {"/events", "/docs"}:
            continue
        answer = await app.ask_admin("GET", path.replace("{id}", "unknown"), headers={**bearer(ACT), "Accept": "*/*"})
        if not answer.headers.get("Content-Type", "").startswith("text/html"):
            continue
        text = answer.body.decode().lower()
        assert "<style" not in text, path
        assert " style=" not in text, path
        assert " onclick=" not in text, path
        assert "javascript:" not in text, path
        assert text.count("<script") == text.count('<script type="module" src="') + text.count('<script src="'), path
        assert 'href="/' not in text, path
        assert 'src="/' not in text, path
        assert 'action="/' not in text, path
