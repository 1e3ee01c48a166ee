"""pygeoapi with a process manager: its own hello-world, and processes that fail or take time on request.

It may call loopback addresses. It announces itself as localhost, like its default configuration.
"""

import os
import time
from pathlib import Path

import yaml
from pygeoapi.process.base import BaseProcessor, ProcessorExecuteError

METADATA = {
    "version": "1",
    "id": "worker",
    "title": "worker",
    "description": "does what it is told",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "keywords": [],
    "links": [],
    "inputs": {},
    "outputs": {},
}


class Worker(BaseProcessor):
    """A process."""

    def __init__(self, definition: dict) -> None:
        super().__init__(definition, {**METADATA, **definition.get("metadata", {})})
        self.supports_outputs = True

    def execute(self, data: dict, outputs: object = None) -> tuple:
        """Do what the job says."""
        time.sleep(data.get("seconds", 0))
        if data.get("fail"):
            raise ProcessorExecuteError("told to fail")
        return "application/json", {"done": data["text"]}


class AtOnce(Worker):
    """A process that cannot run in the background."""

    def __init__(self, definition: dict) -> None:
        super().__init__({**definition, "metadata": {"id": "at-once", "jobControlOptions": ["sync-execute"]}})


def process(name: str) -> dict:
    """Return the configuration of a process; since version 0.24, calls to loopback addresses have to be allowed."""
    return {"type": "process", "processor": {"name": name}, "allow_internal_requests": True}


if __name__ == "__main__":
    port, folder, url = int(os.environ["PORT"]), Path.cwd(), "http://example.org"
    names = ("name", "position", "address", "city", "stateorprovince", "postalcode", "country", "phone", "fax", "email")
    configuration = {
        "server": {
            "bind": {"host": "127.0.0.1", "port": port},
            "url": f"http://localhost:{port}",
            "mimetype": "application/json; charset=UTF-8",
            "encoding": "utf-8",
            "language": "en-US",
            "pretty_print": True,
            "limits": {"default_items": 10, "max_items": 50},
            "map": {"url": url, "attribution": "none"},
            "manager": {"name": "TinyDB", "connection": str(folder / "jobs.json"), "output_dir": str(folder)},
        },
        "logging": {"level": "ERROR"},
        "metadata": {
            "identification": {
                "title": "t",
                "description": "d",
                "keywords": ["k"],
                "keywords_type": "theme",
                "terms_of_service": url,
                "url": url,
            },
            "license": {"name": "none", "url": url},
            "provider": {"name": "none", "url": url},
            "contact": {**dict.fromkeys((*names, "hours", "instructions", "role"), "none"), "url": url},
        },
        "resources": {
            "hello-world": process("HelloWorld"),
            "worker": process("pygeoapi_server.Worker"),
            "at-once": process("pygeoapi_server.AtOnce"),
        },
    }
    file, openapi = folder / "config.yml", folder / "openapi.yml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    os.environ.update(PYGEOAPI_CONFIG=str(file), PYGEOAPI_OPENAPI=str(openapi))
    from pygeoapi.openapi import generate_openapi_document

    openapi.write_text(generate_openapi_document(file, "yaml"), encoding="utf-8")
    from pygeoapi.flask_app import APP

    APP.run("127.0.0.1", port, threaded=True)
