"""A JSON value as a collapsible, escaped HTML tree that needs no JavaScript."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString

OPEN_CHILDREN = 50
"""A list or object with more children than this starts collapsed."""
OPEN_DEPTH = 3
MAX_CHILDREN = 500
MAX_DEPTH = 40
SHORT_TEXT = 20
LONG_TEXT = 400
SHOWN_OF_LONG = 160
TABLE_COLUMNS = 8


def visible_text(text: str) -> SafeString:
    """Escape `text`; characters that hide or reorder text (bidi marks, controls, zero width) appear as escapes."""
    parts = []
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"} and char not in "\n\t":
            parts.append(format_html('<span class="json__escape">{}</span>', f"\\u{ord(char):04x}"))
        else:
            parts.append(conditional_escape(char))
    return SafeString("".join(parts))  # every part was escaped above


def json_tree(value: Any) -> SafeString:
    """`value` as nested `<details>`; lists of like records as tables; more than `OPEN_CHILDREN` children collapsed."""
    if isinstance(value, dict | list) and value and len(value) <= OPEN_CHILDREN:
        return format_html('<div class="json">{}</div>', _children(value, 0))
    return format_html('<div class="json">{}</div>', _node(SafeString(""), value, 0))


def _node(key: SafeString, value: Any, depth: int) -> SafeString:
    if isinstance(value, dict | list) and value and depth < MAX_DEPTH:
        return _group(key, value, depth)
    if isinstance(value, dict | list) and value:
        value = json.dumps(value, ensure_ascii=False)
    return format_html('<div class="json__leaf">{}{}</div>', key, _scalar(value))


def _group(key: SafeString, value: dict[str, Any] | list[Any], depth: int) -> SafeString:
    noun = "field" if isinstance(value, dict) else "item"
    count = f"{len(value)} {noun}{'' if len(value) == 1 else 's'}"
    is_open = len(value) <= OPEN_CHILDREN and depth < OPEN_DEPTH
    return format_html(
        '<details class="json__group"{}><summary>{}<span class="json__count">{}</span></summary>{}</details>',
        SafeString(" open") if is_open else "",
        key,
        count,
        _children(value, depth + 1),
    )


def _children(value: dict[str, Any] | list[Any], depth: int) -> SafeString:
    if isinstance(value, list) and (columns := _columns(value)):
        return _table(columns, value)
    pairs: list[tuple[str | int, Any]] = _facts_first(value) if isinstance(value, dict) else list(enumerate(value))
    rows = format_html_join(
        "", "<li>{}</li>", ((_node(_key(key), child, depth),) for key, child in pairs[:MAX_CHILDREN])
    )
    return format_html('<ul class="json__rows">{}{}</ul>', rows, _left_out(len(pairs)))


def _facts_first(value: dict[str, Any]) -> list[tuple[str | int, Any]]:
    """The fields of an object, what is short before what is long: stored objects come in the order of their keys."""
    return sorted(value.items(), key=lambda pair: bool(pair[1]) and isinstance(pair[1], dict | list))


def _left_out(count: int) -> SafeString:
    if count <= MAX_CHILDREN:
        return SafeString("")
    return format_html('<li class="json__empty">{} more not shown</li>', count - MAX_CHILDREN)


def _columns(items: list[Any]) -> list[str]:
    """The columns of a list of like, flat records; none for any other list."""
    if len(items) < 2 or not all(isinstance(item, dict) for item in items):
        return []
    columns = list(items[0])
    flat = all(
        list(item) == columns and not any(isinstance(cell, dict | list) for cell in item.values()) for item in items
    )
    return columns if flat and len(columns) <= TABLE_COLUMNS else []


def _table(columns: list[str], items: list[dict[str, Any]]) -> SafeString:
    head = format_html_join("", '<th scope="col">{}</th>', ((visible_text(column),) for column in columns))
    rows = format_html_join(
        "",
        "<tr>{}</tr>",
        (
            (format_html_join("", "<td>{}</td>", ((_scalar(item[column]),) for column in columns)),)
            for item in items[:MAX_CHILDREN]
        ),
    )
    left_out = format_html('<ul class="json__rows">{}</ul>', _left_out(len(items))) if len(items) > MAX_CHILDREN else ""
    return format_html(
        '<div class="json__scroll" tabindex="0" role="group" aria-label="Table of {} items"><table class="json__table">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}",
        len(items),
        head,
        rows,
        left_out,
    )


def _scalar(value: Any) -> SafeString:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return format_html('<span class="json__word">{}</span>', json.dumps(value))
    if isinstance(value, int | float):
        return format_html('<span class="json__number">{}</span>', json.dumps(value))
    noun = "object" if isinstance(value, dict) else "list"
    return format_html('<span class="json__empty">empty {}</span>', noun)


def _text(value: str) -> SafeString:
    if not value:
        return format_html('<span class="json__empty">{}</span>', "empty text")
    if len(value) <= SHORT_TEXT:
        return format_html('<span class="json__text json__text--short">{}</span>', visible_text(value))
    if len(value) <= LONG_TEXT:
        return format_html('<span class="json__text">{}</span>', visible_text(value))
    return format_html(
        '<details class="json__long"><summary><span class="json__text">{}…</span> '
        '<span class="json__more">show all {} characters</span></summary><span class="json__text">{}</span></details>',
        visible_text(value[:SHOWN_OF_LONG]),
        len(value),
        visible_text(value),
    )


def _key(key: str | int) -> SafeString:
    if isinstance(key, int):
        return format_html('<span class="json__index">{}</span>', key)
    return format_html('<span class="json__key">{}</span>', visible_text(key))
