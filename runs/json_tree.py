"""A JSON value as a collapsible, escaped HTML tree that needs no JavaScript."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

OPEN_CHILDREN = 50
"""A list or object with more children than this starts collapsed."""
OPEN_DEPTH = 3
MAX_CHILDREN = 500
MAX_DEPTH = 40
LONG_TEXT = 400


def visible_text(text: str) -> SafeString:
    """Escape `text`; characters that hide or reorder text (bidi marks, controls, zero width) appear as escapes."""
    parts = []
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"} and char not in "\n\t":
            parts.append(format_html('<span class="json__escape">{}</span>', f"\\u{ord(char):04x}"))
        else:
            parts.append(conditional_escape(char))
    return mark_safe("".join(parts))  # every part was escaped above


def json_tree(value: Any) -> SafeString:
    """`value` as nested `<details>`, lists and objects of more than `OPEN_CHILDREN` children collapsed."""
    return format_html('<div class="json">{}</div>', _node(value, 0))


def _node(value: Any, depth: int) -> SafeString:
    if isinstance(value, dict | list) and value:
        return _container(value, depth)
    return _scalar(value)


def _scalar(value: Any) -> SafeString:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return format_html('<span class="json__word">{}</span>', json.dumps(value))
    if isinstance(value, int | float):
        return format_html('<span class="json__number">{}</span>', json.dumps(value))
    return format_html(
        '<span class="json__empty">{}</span>', "empty object" if isinstance(value, dict) else "empty list"
    )


def _text(value: str) -> SafeString:
    if not value:
        return format_html('<span class="json__empty">{}</span>', "empty text")
    if len(value) <= LONG_TEXT:
        return format_html('<span class="json__text">{}</span>', visible_text(value))
    return format_html(
        '<details class="json__long"><summary><span class="json__text">{}…</span> '
        '<span class="json__more">show all {} characters</span></summary><span class="json__text">{}</span></details>',
        visible_text(value[:160]),
        len(value),
        visible_text(value),
    )


def _container(value: dict[str, Any] | list[Any], depth: int) -> SafeString:
    if depth >= MAX_DEPTH:
        return _text(json.dumps(value, ensure_ascii=False))
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    rows = format_html_join(
        "",
        '<li class="json__row">{}{}</li>',
        ((_key(key), _node(child, depth + 1)) for key, child in pairs[:MAX_CHILDREN]),
    )
    if len(pairs) > MAX_CHILDREN:
        rows += format_html('<li class="json__row json__empty">{} more not shown</li>', len(pairs) - MAX_CHILDREN)
    noun = "field" if isinstance(value, dict) else "item"
    count = f"{len(pairs)} {noun}{'' if len(pairs) == 1 else 's'}"
    is_open = len(pairs) <= OPEN_CHILDREN and depth < OPEN_DEPTH
    return format_html(
        '<details class="json__group"{}><summary><span class="json__count">{}</span></summary>'
        '<ul class="json__rows">{}</ul></details>',
        mark_safe(" open") if is_open else "",
        count,
        rows,
    )


def _key(key: str | int) -> SafeString:
    if isinstance(key, int):
        return format_html('<span class="json__index">{}</span>', key)
    return format_html('<span class="json__key">{}</span>', visible_text(key))
