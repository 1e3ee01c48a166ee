"""`python -m tests.support.preloaded`: forks front ends on request, from a process that has loaded their modules.

Its standard input is a socket. Each request is JSON, `[module, arguments, environment]`, as for `python -m module`,
with the descriptors for stdout and stderr; the answer is the new process's id.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import time
from typing import Final

import aiobotocore.session  # noqa: F401 - like the next, for the front ends
import uvloop  # noqa: F401

import proxy
import tests.support.forked_proxy  # noqa: F401 - for those of the tests

#: More than any environment.
_LARGEST_BYTES: Final = 1_048_576
_PR_SET_PDEATHSIG: Final = 1
_LOOK_S: Final = 0.001


def _serve() -> None:
    """Return when there will be no more requests; in a front end, raise SystemExit at its end."""
    requests, starter = socket.socket(fileno=0), os.getppid()
    for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
        if module.name != "proxy.__main__":
            importlib.import_module(module.name)
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _LARGEST_BYTES, 2)
        if not request:
            return
        if os.fork() == 0:
            if os.fork() != 0:
                os._exit(0)  # so that its child becomes one of `starter`
            _become_child_of(starter)
            requests.send(str(os.getpid()).encode())
            module, arguments, environment = json.loads(request)
            _set_up(arguments, environment, *descriptors, at=requests.detach())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        os.wait()
        for descriptor in descriptors:
            os.close(descriptor)


def _become_child_of(starter: int) -> None:
    """Wait until our parent has ended; the kernel kills us when `starter` ends."""
    os.setsid()
    while os.getppid() != starter:
        time.sleep(_LOOK_S)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _set_up(arguments: list[str], environment: dict[str, str], stdout: int, stderr: int, *, at: int) -> None:
    """Do what an interpreter finds done at its start."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, at), (stdout, 1), (stderr, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - as it does


if __name__ == "__main__":
    _serve()
