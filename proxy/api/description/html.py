"""HTML pages: small, without scripts and content from other hosts; light or dark by the reader's preference."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Final

from proxy.http.asgi import header

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["PAGE_HEADERS", "code_span", "page", "prefers_html", "words"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6675; --line: #d9dee5; --back: #fff; --box: #f5f7f9;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa6b5; --line: #333c48; --back: #14181e;
  --box: #1c222a; --link: #7db8ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .4rem; font-size: 1.05rem; }
a { color: var(--link); } code, pre { font: .88em/1.5 ui-monospace, monospace; }
code { background: var(--box); padding: .1em .3em; border-radius: 3px; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .7rem; overflow-x: auto; }
pre code { padding: 0; background: none; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); padding: .35rem .6rem .35rem 0; }
th { color: var(--soft); font-weight: 600; } .soft { color: var(--soft); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .35rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; } .method { font-weight: 700; text-transform: uppercase; margin-right: .5rem; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: Nothing is loaded and nothing runs; the only style sheet is allowed by its hash.
PAGE_HEADERS: Final = (
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def page(title: str, body: str) -> bytes:
    """Return a whole page; `body` is markup, `title` is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    ).encode()


def code_span(text: str) -> str:
    """Return markup that shows `text` as code."""
    return f"<code>{escape(text)}</code>"


def words(text: str) -> str:
    """Return markup for a text in which `backticks` mark code."""
    pieces = escape(text).split("`")
    return "".join(piece if i % 2 == 0 else f"<code>{piece}</code>" for i, piece in enumerate(pieces))


def prefers_html(scope: Scope) -> bool:
    """Return whether the request's `Accept` puts HTML before JSON (RFC 9110, 12.5.1)."""
    weights = {"text/html": 0.0, "application/json": 0.0}
    best: dict[str, int] = dict.fromkeys(weights, 0)
    for item in header(scope, b"accept").split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        for wanted in weights:
            ranges = _ranges(wanted)
            rank = ranges.index(kind) + 1 if kind in ranges else 0  # the more specific range counts
            if rank > best[wanted]:
                best[wanted], weights[wanted] = rank, _weight(parameters)
    return weights["text/html"] > weights["application/json"]


def _ranges(kind: str) -> tuple[str, str, str]:
    return "*/*", kind.partition("/")[0] + "/*", kind


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
