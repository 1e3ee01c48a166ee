"""All foreign input is parsed in time that grows linearly with its length.

A pattern that can match the same text in two ways tries both, for every such place: 83 bytes were once enough to stop
the front end forever. So each pattern of the proxy has a row here, with the methods by which it is used, and is tried
with inputs that may cause backtracking.
"""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import proxy
import shared
import worker

Pattern = re.Pattern[Any]
Text = str | bytes


def fullmatch(pattern: Pattern, text: Text) -> None:
    """Match the whole text."""
    pattern.fullmatch(text)


def match(pattern: Pattern, text: Text) -> None:
    """Match the beginning of a text."""
    pattern.match(text)


def search(pattern: Pattern, text: Text) -> None:
    """Find the first match."""
    pattern.search(text)


def findall(pattern: Pattern, text: Text) -> None:
    """Find all matches."""
    pattern.findall(text)


def lines_of_a_head(pattern: Pattern, text: Text) -> None:
    """Match the lines of a text that is a head."""
    head = patterns()["proxy.http.fast.exchange._HEAD"].fullmatch(text)
    if head is not None:
        pattern.findall(head[3])


#: Module and name of each pattern, and how it is used.
PATTERNS: dict[str, Callable[[Pattern, Text], None]] = {
    "proxy.api.clients.request_headers._BARE": fullmatch,
    "proxy.api.clients.request_headers._ESCAPED": findall,
    "proxy.api.clients.request_headers._STRING": fullmatch,
    "proxy.api.clients.request_headers._NAME": fullmatch,
    "proxy.api.clients.request_headers._PIECE": findall,
    "proxy.api.operators.access.log_in._NEXT": fullmatch,
    "proxy.api.operators.certificates._PEM": findall,
    "proxy.api.operators.job_filters._AGE": fullmatch,
    "proxy.http.asgi._ROUTE": fullmatch,
    "proxy.log._TOKEN": findall,
    "proxy.http.fast.connection._BARE_END": search,
    "proxy.http.fast.connection._EMPTY_LINES": match,
    "proxy.http.fast.exchange._HEAD": fullmatch,
    "proxy.http.fast.exchange._LINE": lines_of_a_head,
    "proxy.http.forwarded._HOST": fullmatch,
    "proxy.http.forwarded._PREFIX": fullmatch,
    "proxy.api.stray_callbacks._TOKEN": search,
    "proxy.http.hypercorn_fixes.request._HEAD_END": search,
    "proxy.http.hypercorn_fixes.request._QUOTATION": search,
    "proxy.http.target._ABSOLUTE": fullmatch,
    "proxy.http.target._AUTHORITY": fullmatch,
    "proxy.jobs.job._ID": fullmatch,
    "proxy.jobs.entrance._TRACEPARENT": fullmatch,
    "proxy.store.conditions._NOT_ASCII": findall,
    "proxy.store.patterns._PARTICULAR": findall,
    "proxy.store.postgresql.reading._SPECIAL": findall,
    "proxy.store.postgresql.statements._NAME": findall,
    "shared.env_file._EXPORT": match,
    "shared.env_file._WORD": findall,
    "shared.job_server.callback_tokens._IN_A_URL": findall,
    "shared.job_server.checks._BRACE": search,
    "shared.job_server.checks._ELSEWHERE": search,
    "shared.job_server.checks._FIRST": match,
    "shared.job_server.checks._OUTPUT": fullmatch,
    "shared.job_server.checks._PAGE": match,
    "shared.job_server.checks._PATH": fullmatch,
    "shared.job_server.checks._SECRET": search,
    "shared.job_server.checks._SHELL": search,
    "shared.job_server.checks._WORD_IN_BRACES": search,
    "shared.job_server.documents._DISPOSITION": search,
    "shared.job_server.documents._ESCAPED": findall,
    "shared.job_server.documents._OBJECT_OR_LIST": match,
    "shared.job_server.documents._PARAMETER": findall,
    "shared.job_server.expressions._PLAIN": fullmatch,
    "shared.job_server.expressions._STEPS": findall,
    "shared.job_server.forms._ENCODED_NAME": search,
    "shared.job_server.forms._NAME": findall,
    "shared.job_server.placeholders._PLACEHOLDER": findall,
    "shared.job_server.submissions._PAUSE": match,
    "shared.job_server.submissions._STATUS": search,
    "shared.job_server.submissions._TITLE": search,
    "shared.job_server.traps._NOT_A_MEMBER": search,
    "shared.job_server.values._NAME": fullmatch,
    "shared.job_server.values._NOT_IN_A_FIELD_NAME": search,
    "shared.job_server.values._NOT_IN_A_URL": search,
    "shared.job_server.values._TOKEN": fullmatch,
    "shared.setting_kinds._COMMENT": search,
    "shared.setting_kinds._HEADER": fullmatch,
    "shared.setting_kinds._REFERENCE": search,
    "shared.setting_kinds._USER": fullmatch,
    "shared.setting_kinds._LABEL": fullmatch,
    "shared.shown_urls._PATH": findall,
    "shared.shown_urls._QUERY": findall,
    "shared.shown_urls._RUN": findall,
    "shared.shown_urls._USER": findall,
    "shared.shown_urls._UUID": search,
    "shared.job_server.labels._CARD": search,
    "shared.job_server.labels._LOGIN": search,
    "shared.job_server.labels._LONG": findall,
    "shared.job_server.labels._MEMBER": findall,
    "shared.job_server.labels._PARAMETER": findall,
    "shared.job_server.labels._SECRET_NAME": search,
    "shared.job_server.partial_json._HALF": search,
    "shared.job_server.partial_json._NAME": match,
    "shared.job_server.partial_json._NEXT": match,
    "shared.job_server.partial_json._PAIR": findall,
    "shared.job_server.partial_json._STRING": findall,
    "shared.job_server.partial_json._TOO_LONG": search,
    "shared.strict_json._SPACE": match,
    "shared.strict_json._SURROGATE": search,
    "shared.strict_json._WIDE": match,
    "worker.exchange._ENCODED": fullmatch,
    "worker.connection._NUMBER": findall,
}
#: The inputs consist of these: characters with a meaning in HTTP and JSON, and others.
CHARACTERS = ["a", "0", " ", ";", ",", "=", '"', "\\", "-", ":", "\r\n", "\\u"]
BEFORE = ["", '"', "a;", "GET / HTTP/1.1\r\na:"]
AFTER = ["", "(", '"', "\\", "\r\n", "\x00"]
LENGTH = 2_000
#: CPU time, not wall-clock time. Linear time takes less than a fifth of this, quadratic time twice as much,
#: and exponential time, forever.
LIMIT_S = 0.0025
ATTEMPTS = 5


def modules() -> Iterator[ModuleType]:
    """Yield every module of the product that can be imported without side effects."""
    for package in (proxy, shared, worker):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


@functools.cache
def patterns() -> dict[str, Pattern]:
    """Return the patterns of all modules, by their places."""
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, re.Pattern)
    }


def hostile() -> Iterator[str]:
    """Yield texts of one or two repeated parts, with various surroundings."""
    units = [*CHARACTERS, *("".join(pair) for pair in itertools.permutations(CHARACTERS, 2))]
    for unit in units:
        run = unit * (LENGTH // len(unit))
        for before, after in itertools.product(BEFORE, AFTER):
            yield before + run + after


def test_every_pattern_has_a_row() -> None:
    """And no row of a removed one is left."""
    assert set(patterns()) == set(PATTERNS)


@pytest.mark.parametrize(("name", "use"), PATTERNS.items())
def test_a_pattern_takes_linear_time(name: str, use: Callable[[Pattern, Text], None]) -> None:
    """Whatever is repeated in its input."""
    pattern = patterns()[name]
    for text in hostile():
        given = text.encode("ascii") if isinstance(pattern.pattern, bytes) else text
        assert spent_s(use, pattern, given) < LIMIT_S, (text[:40], text[-2:])


def test_the_limit_tells_quadratic_time_from_linear() -> None:
    """A pattern that is known to be slow fails."""
    assert spent_s(match, re.compile(r"\s*x?\s*="), " " * LENGTH) > LIMIT_S


def spent_s(use: Callable[[Pattern, Text], None], pattern: Pattern, text: Text) -> float:
    """Return the CPU time that matching `text` takes, in seconds, without garbage collections.

    A virtual machine counts time that its host takes away as the process's own, so the minimum of some attempts
    counts. One attempt below the limit is enough.
    """
    spent: list[float] = []
    while len(spent) < ATTEMPTS and (not spent or spent[-1] >= LIMIT_S):
        gc.disable()
        started = time.thread_time()
        use(pattern, text)
        spent.append(time.thread_time() - started)
        gc.enable()
    return min(spent)
