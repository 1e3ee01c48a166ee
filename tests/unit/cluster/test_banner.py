"""What `python -m cluster` prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from cluster.__main__ import banner

if TYPE_CHECKING:
    from cluster.running import Cluster

_INSTANCE = SimpleNamespace(name="instance 1", url="http://127.0.0.1:3010", admin="http://127.0.0.1:3011", pid=7)
_CLUSTER = cast(
    "Cluster",
    SimpleNamespace(
        url="http://127.0.0.1:3000",
        instances=[_INSTANCE],
        job_server=SimpleNamespace(url="http://127.0.0.1:3002"),
        database=SimpleNamespace(url=lambda: "postgresql://127.0.0.1/db"),
        folder="/logs",
        sqs=None,
    ),
)


def test_the_commands_send_a_key_where_one_is_needed() -> None:
    """Otherwise their answer would be 401; the key itself is not printed."""
    for needs_key in (False, True):
        printed = banner(_CLUSTER, needs_key=needs_key)
        assert ('-H "Authorization: Bearer $API_KEY" http://127.0.0.1:3000/queueJob' in printed) is needs_key
        assert ('--api-key "$API_KEY" & sleep 3; kill -9 7; wait' in printed) is needs_key
        assert ("API_KEY=..." in printed) is needs_key
