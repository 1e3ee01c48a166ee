"""`python -m bench.starts`: what it costs to start and end a worker process, in three ways.

A module of its own, named `__main__`: the standard forkserver runs the main script again in every child otherwise.
"""

from __future__ import annotations

import socket
import sys

from bench.starts.ways import answer_for_ever, main

if len(sys.argv) > 1:
    answer_for_ever(socket.socket(fileno=int(sys.argv[1])))
main()
