"""`python -m bench.starts`: the cost of starting and ending a worker process, in three ways.

This is a separate `__main__`, because the standard forkserver runs any other main script again in every child.
"""

from __future__ import annotations

import socket
import sys

from bench.starts.ways import answer_for_ever, main

if len(sys.argv) > 1:
    answer_for_ever(socket.socket(fileno=int(sys.argv[1])))
main()
