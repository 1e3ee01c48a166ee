"""Each kind of body that is not JSON according to RFC 8259, or that breaks a careless reader."""

from __future__ import annotations

from typing import Final

__all__ = ["BAD_VALUES", "NO_OBJECTS"]

#: Kind -> the body, and a word of the reason that the strict reader gives.
BAD_VALUES: Final = {
    "nothing": (b"", "it is empty"),
    "only space": (b" \n", "it is empty"),
    "a word": (b"hello", "character 0"),
    "NaN": (b"NaN", "NaN"),
    "NaN inside": (b'{"a": [NaN]}', "NaN"),
    "Infinity": (b"Infinity", "Infinity"),
    "minus Infinity": (b"-Infinity", "Infinity"),
    "text behind": (b"{} {}", "Extra data"),
    "a comma too many": (b'{"a": 1,}', "character"),
    "single quotes": (b"{'a': 1}", "character"),
    "a comment": (b"{} // comment", "Extra data"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-8"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "it is UTF-16 or UTF-32"),
    "UTF-16, the other way round": ('{"a": 1}'.encode("utf-16-be"), "it is UTF-16 or UTF-32"),
    "UTF-32 without a mark": ('{"a": 1}'.encode("utf-32-be"), "it is UTF-16 or UTF-32"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", "it is zstd"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "UTF-8"),
    "a surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
    "a lone surrogate": (b'{"a": "\\ud800"}', "surrogate"),
    "a lone low surrogate": (b'{"a": "\\uDC00 "}', "surrogate"),
    "a lone surrogate as a name": (b'{"\\ud83d": 1}', "surrogate"),
    "surrogates the wrong way round": (b'{"a": "\\ude00\\ud83d"}', "surrogate"),
    "deep arrays": (b"[" * 100_000 + b"]" * 100_000, "deep"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
    "deep arrays in an object": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    "5,000 digits": (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
    "a control character": (b'{"a": "\x01"}', "character"),
    "an unfinished string": (b'{"a": "', "character"),
    "an unfinished object": (b'{"a": 1', "character"),
}
#: Kind -> JSON that is not an object.
NO_OBJECTS: Final = {
    "an array": b"[]",
    "a string": b'"a"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
}
