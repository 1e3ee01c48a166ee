"""Claims of docs/security.md that no other test covers."""

from __future__ import annotations

import asyncio
import hmac
import json

import pytest

from proxy.api.clients.request_headers import Authorization
from shared.errors import RequestError
from tests.chaos.support.harness import Chaos
from tests.support.http import fetch
from tests.support.waiting import eventually


async def test_a_stolen_journal_opens_no_callback_route(chaos: Chaos) -> None:
    """While a job waits, its token is nowhere in the journal's files, which hold only its hash."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="journal"))
    url = await chaos.callback_url("journal")
    token = url.rpartition("/")[2].encode()
    files = [path for path in chaos.proxy.folder.iterdir() if path.name.startswith("journal")]
    assert files
    written = b"".join([path.read_bytes() for path in files])
    assert b"submitting" in written or b"assigned" in written or b"accepted" in written, "nothing was recorded"
    assert token not in written
    await chaos.call_back(url)
    assert (await job).status == 200


async def test_a_path_cannot_forge_a_line_of_the_log(chaos: Chaos) -> None:
    """Line breaks in a path, a query or a header start no new line in the log."""
    forged = '{"event": "job succeeded", "job_id": "forged"}'
    for path in (f"/callback/%0a{forged}%0a", f"/queueJob?x=%0d%0a{forged}", f"/%0a{forged}"):
        chaos.unheard += 1
        answer = await fetch(chaos.session, "POST", f"{chaos.proxy.url}{path}", headers={"User-Agent": forged})
        assert answer.status in {404, 415}
    assert (await chaos.job()).status == 200
    await eventually(chaos.ended)
    naming = [json.loads(line) for line in chaos.proxy.stderr if "forged" in line]
    assert {line["event"] for line in naming} <= {"request refused"}


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the first ones match, all are compared, by the function made for it."""
    calls = []
    real = hmac.compare_digest

    def counted(first: bytes, second: bytes) -> bool:
        calls.append((first, second))
        return real(first, second)

    authorization = Authorization(("one", "two", "three"))
    monkeypatch.setattr(hmac, "compare_digest", counted)
    for key in (b"one", b"three"):
        authorization.check({"type": "http", "headers": [(b"authorization", b"Bearer " + key)]})
    with pytest.raises(RequestError):
        authorization.check({"type": "http", "headers": [(b"authorization", b"Bearer four")]})
    assert len(calls) == 3 * 3
    assert all(len(first) == len(second) == 32 for first, second in calls), "not hashes: lengths would tell"
