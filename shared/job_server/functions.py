"""The functions of expressions: those of JMESPath, and one more that job servers' messages need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from jmespath import Options, functions

__all__ = ["ARGUMENTS", "OPTIONS"]


class _Functions(functions.Functions):
    @functions.signature({"types": ["string"]})
    def _func_basename(self, url: str) -> str | None:
        """Return the last segment of a URL's path: the id in a `Location`. Null if the path has none."""
        segment = urlsplit(url).path.rstrip("/").rpartition("/")[2]
        return unquote(segment) or None


OPTIONS: Final = Options(custom_functions=_Functions())
#: The callable functions, with the minimum number of arguments and, if there is one, the maximum.
ARGUMENTS: Final[Mapping[str, tuple[int, int | None]]] = {
    name: (
        len(entry["signature"]),
        None if any(one.get("variadic") for one in entry["signature"]) else len(entry["signature"]),
    )
    for name, entry in _Functions.FUNCTION_TABLE.items()
}
