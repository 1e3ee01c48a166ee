"""Which files a job crosses: `python -m tools.trace_job` starts a proxy, posts one plain job and lists them.

A file of `proxy/`, `shared/` or `worker/` is counted if one of its functions runs in the front end or in the job's
worker between the request and its answer. Not counted is code that runs at the same time but not for the job, and what
it calls: the log, metrics, history, the stall watch, and the start of the next worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

from tools.pages import ROOT

_ASIDE: Final = (
    "log.py",
    "observe/",
    "jobs/log_lines.py",
    "run/stall_watch.py",
    "workers/fork_server_client.py",
    "workers/log_lines.py",
    "workers/supply.py",
)
#: Loaded by each process at its start. It opens the file each time, because a fork might close its descriptor.
_WATCH: Final = """
import os, sys, threading, time
def note(frame, event, arg):
    name = frame.f_code.co_filename
    if event == "call" and name.startswith({roots!r}):
        while frame is not None and not frame.f_code.co_filename.startswith({aside!r}):
            frame = frame.f_back
        if frame is None:
            with open({path!r}, "a") as trace:
                trace.write(f"{{time.monotonic()}} {{os.getpid()}} {{name}}\\n")
threading.setprofile(note)
sys.setprofile(note)
"""


def crossed(folder: Path) -> set[str]:
    """Return the files that a job crosses. `folder` is for temporary files."""
    path = folder / "trace"
    roots = tuple(f"{ROOT}/{name}/" for name in ("proxy", "shared", "worker"))
    aside = tuple(f"{ROOT}/proxy/{name}" for name in _ASIDE)
    watch = _WATCH.format(roots=roots, aside=aside, path=str(path))
    (folder / "sitecustomize.py").write_text(watch, encoding="utf-8")
    plain = {"PYTHONPATH": str(folder), "PORT": "0", "ADMIN_PORT": "0", "JOURNAL": "", "LOG_FORMAT": "json"}
    with _started(plain) as proxy:
        try:
            lines = (json.loads(line) for line in proxy.stderr or ())
            url = next(line["public"] for line in lines if "public" in line) + "/queueJob"
            _post(url)  # so that everything that is loaded or created on first use exists already
            time.sleep(2)
            began = time.monotonic()
            _post(url)
            ended = time.monotonic()
        finally:
            proxy.terminate()
    calls = [line.split(" ", 2) for line in path.read_text(encoding="utf-8").splitlines()]
    window = [(pid, file) for at, pid, file in calls if began <= float(at) <= ended]
    worker = {pid for pid, file in window if file.endswith("/worker/job_client.py")}
    return {file.removeprefix(f"{ROOT}/") for pid, file in window if pid in worker | {str(proxy.pid)}}


def _started(settings: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _post(url: str) -> None:
    request = Request(url, data=b'{"account": "a"}', headers={"Content-Type": "application/json"})  # noqa: S310 - ours
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()


def main() -> None:
    """Print the files, and their number by folder."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(crossed(Path(folder)))
    print("\n".join(files))
    for place, count in sorted(Counter(str(Path(file).parent) for file in files).items()):
        print(f"{count:4} {place}")
    print(f"{len(files):4} files")


if __name__ == "__main__":
    main()
