"""LangGraph's development server, which may call loopback addresses, with one graph. It needs no network."""

import json
import os
import shutil
from pathlib import Path

from langgraph_cli.cli import cli

shutil.copy(Path(__file__).with_name("langgraph_graph.py"), "graph.py")
Path("langgraph.json").write_text(
    json.dumps(
        {
            "dependencies": ["."],
            "graphs": {"agent": "./graph.py:graph"},
            "webhooks": {"url": {"require_https": False, "disable_loopback": False}},
        }
    )
)
cli(["dev", "--no-browser", "--no-reload", "--port", os.environ["PORT"]])
