"""deploy/queue.yml and docs/queue.md grant the proxy exactly the rights that it uses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).resolve().parents[3]


class _Template(yaml.SafeLoader):
    """Reads a CloudFormation template; functions are replaced by their arguments."""


def _function(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Template.add_multi_constructor("!", _function)


def used() -> set[str]:
    """The rights that the product's calls need; a batch needs the right of the single call."""
    source = (_ROOT / "proxy" / "sqs" / "service.py").read_text(encoding="utf-8")
    calls = re.findall(r'_(?:call|batch)\(\s*"([a-z_]+)"', source)
    words = [call.removesuffix("_batch").split("_") for call in calls]
    return {"sqs:" + "".join(word.capitalize() for word in call) for call in words}


def granted(statements: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The rights for the queue of jobs, and those for the other queues."""
    assert all(statement["Effect"] == "Allow" for statement in statements)
    jobs, others = statements
    return {"jobs": set(jobs["Action"]), "others": set(others["Action"])}


def test_the_template_grants_what_is_used() -> None:
    """To the queue of jobs, and to the queues that it sends to."""
    template = yaml.load((_ROOT / "deploy" / "queue.yml").read_text(encoding="utf-8"), _Template)  # noqa: S506 - a SafeLoader
    rights = granted(template["Resources"]["ProxyPolicy"]["Properties"]["PolicyDocument"]["Statement"])
    assert rights["jobs"] | rights["others"] == used()
    assert "sqs:SendMessage" not in rights["jobs"]
    assert "sqs:ReceiveMessage" not in rights["others"]


def test_the_page_grants_the_same() -> None:
    """Users without CloudFormation copy it from there."""
    page = (_ROOT / "docs" / "queue.md").read_text(encoding="utf-8")
    policy = json.loads(page.split("```json\n")[1].split("```")[0])
    template = yaml.load((_ROOT / "deploy" / "queue.yml").read_text(encoding="utf-8"), _Template)  # noqa: S506 - the same
    document = template["Resources"]["ProxyPolicy"]["Properties"]["PolicyDocument"]
    assert granted(policy["Statement"]) == granted(document["Statement"])
