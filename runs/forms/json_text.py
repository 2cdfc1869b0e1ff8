"""The JSON that people type: read strictly, refused with line and column."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from runs.forms.refused import Refused

MAX_DEPTH = 60
MAX_DIGITS = 1000
_COLON = re.compile(r"\s*:")
# A string that is never closed runs to the end, so that no part of the text is looked at twice.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|NaN|-?Infinity|-?\d[\d.eE+-]*|[{}\[\],:]', re.DOTALL)


def shown(value: Any) -> str:
    """The value as indented JSON that a page can carry."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text


def read(text: str) -> Any:
    """The value of a JSON text. Integers stay exact; NaN, infinities, doubled keys and deep nesting are refused."""
    _check_tokens(text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Refused(f"Not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}, {_place(text, error.pos)}.") from None


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _check_tokens(text: str) -> None:
    """Refuse what `json.loads` would let through, while the place in the text is still known."""
    keys_of: list[set[str]] = []
    for found in _TOKEN.finditer(text):
        fault = _fault(found[0], keys_of, is_key=_COLON.match(text, found.end()) is not None)
        if fault:
            raise Refused(f"{fault}, {_place(text, found.start())}.")


def _fault(piece: str, keys_of: list[set[str]], *, is_key: bool) -> str:
    if piece in "{[":
        keys_of.append(set())
        return f"Nested more than {MAX_DEPTH} levels deep" if len(keys_of) > MAX_DEPTH else ""
    if piece in "}]":
        del keys_of[-1:]
        return ""
    if piece[0] == '"':
        return _key_fault(piece, keys_of[-1]) if is_key and keys_of else ""
    if piece.endswith(("NaN", "Infinity")):
        return f"{piece} is not a JSON number"
    return _number_fault(piece) if piece[0] in "-0123456789" else ""


def _number_fault(piece: str) -> str:
    if len(piece) > MAX_DIGITS:
        return f"The number has more than {MAX_DIGITS} digits"
    try:
        infinite = math.isinf(float(piece))
    except ValueError:
        return ""  # not a number at all: `json.loads` says so, better
    return "The number is too large" if infinite and not piece.lstrip("-").isdigit() else ""


def _key_fault(piece: str, keys: set[str]) -> str:
    try:
        key = json.loads(piece)
    except json.JSONDecodeError:
        return ""  # a bad escape: `json.loads` of the whole text names its place
    if key in keys:
        return f"The key {piece} appears twice"
    keys.add(key)
    return ""
