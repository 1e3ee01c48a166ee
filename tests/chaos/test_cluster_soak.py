"""The seeded chaos of several instances: persistent clients, and harm to instances, connections and the database.

At the end three sides have to agree: what clients were told, what the database holds, and the job server's ledger.
Short by default; `make soak-cluster SECONDS=600` runs it longer. SOAK_SEED repeats the jobs and the order of the harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from cluster.postgresql import PostgreSQL
from proxy.store.record import Record
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.chaos.support.cluster import LEASE_S, TIMEOUT_S, Client, Cluster, Node, clustered
from tests.support.waiting import eventually

_SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "18"))
_SEED: Final = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbits(32)
_CLIENTS: Final = 12
#: One job in this many has no key, so its client must not retry on a guess.
_KEYLESS_ONE_IN: Final = 6
_FAULTS: Final = ("none",) * 14 + (
    "early", "duplicate", "failed", "drop-but-run", "refuse-first", "slow-reply", "never", "late", "forged",
)  # fmt: skip
_HARM: Final = {
    "killed": 4, "paused": 3, "front end paused": 1, "stalled": 3, "cut": 2, "drained": 1, "database killed": 2,
    "table locked": 1, "disk full": 1, "standby lost": 1,
}  # fmt: skip
#: What harms the database rather than an instance.
_OF_DATABASE: Final = {"database killed", "table locked", "disk full", "standby lost"}
#: Refuses new rows as a full disk does, and ends that.
_FULL: Final = """
CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'could not extend the file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON proxy_jobs FOR EACH ROW EXECUTE FUNCTION full_disk();
"""
_FREED: Final = "DROP TRIGGER full_disk ON proxy_jobs"
_OK: Final = 200
#: What an instance answers at the deadline if it cannot read the record, and what the record says then.
_CUT_OFF: Final = {"deadline-exceeded", "interrupted"}
#: By then, orphaned jobs have been found.
_REST_S: Final = TIMEOUT_S + 4 * LEASE_S + 10


class Soak:
    """One run: its clients, and what was done to the cluster meanwhile."""

    def __init__(self, cluster: Cluster, session: ClientSession) -> None:
        self.cluster = cluster
        self.session = session
        self.clients: list[Client] = []
        self.harm: Counter[str] = Counter()
        self._until = time.monotonic() + _SECONDS

    async def run(self) -> None:
        """Run until the time is over and each client has its final answer; then stop all harm."""
        rng = random.Random(_SEED)
        harming = asyncio.create_task(self._harm(rng))
        await asyncio.gather(*(self._client(n) for n in range(_CLIENTS)))
        await harming

    async def _client(self, n: int) -> None:
        rng = random.Random(_SEED * 1_000 + n)
        number = 0
        while time.monotonic() < self._until:
            number += 1
            ref = f"c{n}-{number}"
            fault, duration_s, delay_s = rng.choice(_FAULTS), rng.uniform(0, 0.4), rng.uniform(0, 0.1)
            if fault == "late":
                delay_s = TIMEOUT_S + 0.5
            job = {"account": ref, "ref": ref, "fault": fault, "duration": duration_s, "delay": delay_s}
            key = None if rng.randrange(_KEYLESS_ONE_IN) == 0 else ref
            client = Client(self.session, self.cluster.queue_job, job, key)
            self.clients.append(client)
            await client.run()

    async def _harm(self, rng: random.Random) -> None:
        """Harm one thing after the other; two of them may be harmed at once."""
        idle = list(self.cluster.nodes)
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < self._until:
            await asyncio.sleep(rng.uniform(0.1, 1.2))
            what = rng.choices(list(_HARM), list(_HARM.values()))[0]
            node, for_s = rng.choice(self.cluster.nodes), rng.uniform(0.2, 2.5) * LEASE_S
            if (what not in _OF_DATABASE and node not in idle) or len(under_way) > 1:
                continue
            self.harm[what] += 1
            if what not in _OF_DATABASE:
                idle.remove(node)
            task = asyncio.create_task(self._harm_one(what, node, for_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            if what in _OF_DATABASE:
                await task
            else:
                task.add_done_callback(lambda _, node=node: idle.append(node))  # type: ignore[misc] # its default
        await asyncio.gather(*under_way)

    async def _harm_one(self, what: str, node: Node, for_s: float) -> None:
        match what:
            case "killed":
                await asyncio.to_thread(node.restarts.restart)
            case "drained":
                await asyncio.to_thread(node.restarts.proxy.stop)
                await asyncio.to_thread(node.restarts.start)
            case "paused" | "front end paused":
                node.pause(whole=what == "paused")
                await asyncio.sleep(for_s)
                node.resume()
            case "stalled" | "cut":
                node.line.stall() if what == "stalled" else node.line.cut()
                await asyncio.sleep(for_s)
                node.line.mend()
            case "table locked":
                lock = f"BEGIN; LOCK TABLE proxy_jobs IN SHARE MODE; SELECT pg_sleep({for_s}); COMMIT"
                await self._sql(lock)
            case "disk full":
                await self._sql(_FULL)
                await asyncio.sleep(for_s)
                await self._sql(_FREED)
            case "standby lost":
                await self._require_standbys("nobody")
                await asyncio.sleep(for_s)
                await self._require_standbys("")
            case _:
                await asyncio.to_thread(self.cluster.postgresql.kill)
                await asyncio.sleep(for_s / 2)
                await asyncio.to_thread(self.cluster.postgresql.start)

    async def _require_standbys(self, names: str) -> None:
        """Have commits wait for these standbys."""
        await self._sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await self._sql("SELECT pg_reload_conf()")

    async def _sql(self, statement: str) -> None:
        await asyncio.to_thread(self.cluster.postgresql.sql, statement, self.cluster.database.rpartition("/")[2])


@pytest.mark.soak_cluster
@pytest.mark.timeout(_SECONDS + 240)
async def test_three_sides_agree_whatever_happens_to_instances_and_their_database(
    postgresql: PostgreSQL, database: str, client: ClientSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No accepted job is lost, none is submitted twice, every answer is true, and every client gets one."""
    begun = time.monotonic()
    try:
        async with clustered(postgresql, database, tmp_path, MAX_JOBS="64") as cluster:
            soak = Soak(cluster, client)
            await soak.run()
            await eventually(lambda: _is_quiet(cluster, client), _REST_S, every_s=0.5)
            ledger = await cluster.ledger(client)
            records = cluster.records()
    except BaseException:
        with capsys.disabled():
            sys.stdout.write(f"\nSOAK_SEED={_SEED} repeats this\n")
        raise
    accounts = Accounts(soak.clients, records, ledger)
    differences = accounts.differences()
    with capsys.disabled():
        _report(soak, accounts, time.monotonic() - begun)
    assert not differences, "\n".join([f"SOAK_SEED={_SEED} repeats this", *differences])


async def _is_quiet(cluster: Cluster, client: ClientSession) -> bool:
    """Return whether every record has its end, and every job that ran has had its callback accepted."""
    if any(record.state is not State.FINISHED for record in cluster.records()):
        return False
    ledger = await cluster.ledger(client)
    ran = {entry["id"] for entry in ledger["submissions"] if entry["ran"] and entry["fault"] != "never"}
    return ran <= {entry["id"] for entry in ledger["callbacks"] if entry["status"] == 200}


class Accounts:
    """What the three sides say."""

    def __init__(self, clients: list[Client], records: list[Record], ledger: dict[str, Any]) -> None:
        self.clients = clients
        self.records = records
        self.accepted = {entry["id"] for entry in ledger["callbacks"] if entry["status"] == 200}
        self.by_id = {record.id: record for record in records}
        self.by_token = {record.token_hash: record for record in records}
        self.submissions = ledger["submissions"]
        #: By the job's own name, and by its record's id: the submissions that the job server did not refuse.
        self.by_ref: dict[str, list[dict[str, Any]]] = {}
        self.of_record: dict[str, list[dict[str, Any]]] = {}
        self.lost: list[str] = []
        for entry in self.submissions:
            record = self.by_token.get(_token_hash(entry["callback"]))
            if record is None:
                self.lost.append(f"the database does not know the job {entry['ref']} that was submitted")
            if not entry["refused"]:
                self.by_ref.setdefault(entry["ref"], []).append(entry)
                if record is not None:
                    self.of_record.setdefault(record.id, []).append(entry)
        self.doubled = [ref for ref, entries in self.by_ref.items() if len(entries) > 1]

    def differences(self) -> list[str]:
        """Return what does not agree; nothing if all is well."""
        found = [*self.lost, *(f"submitted twice: {ref}" for ref in self.doubled)]
        for record in self.records:
            found += self._of_record(record)
        for client in self.clients:
            found += [f"{client.job}, {client.key}: {line}" for line in self._of_client(client)]
        return found

    def _of_record(self, record: Record) -> list[str]:
        entries = self.of_record.get(record.id, [])
        found = []
        if record.submitted is Submitted.NO and entries:
            found.append("the record says that nothing was submitted")
        if record.submitted is Submitted.YES and not entries:
            found.append("the record says that it was submitted")
        if any(entry["id"] in self.accepted for entry in entries) and record.callback is None:
            found.append("a callback was accepted and is not there")
        if record.callback is not None and json.loads(record.callback)["id"] not in {it["id"] for it in entries}:
            found.append("the callback is another job's")
        return [f"{record.id} ({record.failure}): {line}; ledger: {entries}" for line in found]

    def _of_client(self, client: Client) -> list[str]:
        if not client.answers:
            return [] if client.key is None and client.broken else ["no answer"]
        answer = client.answers[-1]
        if answer.status != _OK and answer.document["type"] == "about:blank":
            # The gateway's answer says nothing about the job: it is final only for a client without a key.
            return [] if client.key is None else ["the gateway had the last word"]
        record = self.by_id.get(answer.headers.get("Job-Id", ""))
        if record is None:
            return [f"the database does not know what the client was told: {answer.body!r}"]
        if answer.status == _OK:
            return [] if answer.body == record.callback else ["the result is not the record's"]
        return self._of_failure(answer.document, record)

    def _of_failure(self, told: dict[str, Any], record: Record) -> list[str]:
        """Return what is false in a client's answer about a job without a result."""
        entries = self.of_record.get(record.id, [])
        found = []
        if told["submitted"] == "no" and entries:
            found.append("the client was told that nothing was submitted")
        if told["submitted"] == "yes" and not entries:
            found.append("the client was told that it was submitted")
        if told["code"] == "job-failed":
            found += [] if record.says_failed else ["the record does not say that it failed"]
        elif record.failure is None:
            # Its result came elsewhere, and the instance could not ask: its answer is true, but incomplete.
            true = record.callback is not None and told["code"] in {*_CUT_OFF, "job-server-unavailable"}
            found += [] if true else ["the record has no failure"]
        elif told["code"] != record.failure.code and not _both_true(told, record.failure):
            found.append("the record has another failure")
        return [f"{line}: {told}, {record.failure}" for line in found]


def _both_true(told: dict[str, Any], recorded: Failed) -> bool:
    """Return whether the instance that answered was cut off, and another one may have ended the job meanwhile.

    It answers at the deadline; or earlier, if it knows of a failure that the other one cannot know.
    """
    if told["code"] == "job-server-unavailable":
        return recorded.code == "interrupted" and told["submitted"] == recorded.submitted
    return {told["code"], recorded.code} <= _CUT_OFF


def _token_hash(callback_url: str) -> bytes:
    return hashlib.sha256(callback_url.rpartition("/")[2].encode()).digest()


def _report(soak: Soak, accounts: Accounts, took_s: float) -> None:
    answers = Counter(
        "none" if not client.answers else str(client.answers[-1].document.get("code", "200")) for client in soak.clients
    )
    with contextlib.suppress(KeyError):
        answers["200"] = answers.pop("200")
    attempts = sum(len(client.answers) + client.broken for client in soak.clients)
    origins = sum(record.origin != record.owner for record in accounts.records)
    unknown = sum(record.submitted is Submitted.UNKNOWN for record in accounts.records)
    lines = (
        f"\nsoak of the cluster: seed {_SEED}, {took_s:.0f} s, {len(soak.clients)} jobs, {attempts} requests",
        "harm: " + (", ".join(f"{name} {count}" for name, count in soak.harm.most_common()) or "none"),
        "last answers: " + ", ".join(f"{code} {count}" for code, count in answers.most_common()),
        f"records {len(accounts.records)}, of which taken over {origins}, unknown {unknown}",
        f"submissions {len(accounts.submissions)}, callbacks accepted {len(accounts.accepted)}",
        f"lost {len(accounts.lost)}, doubled {len(accounts.doubled)}, differences {len(accounts.differences())}\n",
    )
    sys.stdout.write("\n  ".join(lines))
