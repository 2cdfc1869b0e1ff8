"""Values of runs are shown as text, whatever they hold; nothing in them hides, reorders or runs."""

from __future__ import annotations

from typing import Any

from runs.json_tree import MAX_CHILDREN, json_tree


def test_markup_in_keys_and_values_is_text() -> None:
    html = json_tree({"<b>": "<img src=x onerror=alert(1)>", "n": [{"<i>": "</td>"}, {"<i>": "&"}]})
    assert "<img" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_characters_that_hide_or_reorder_text_are_shown_as_escapes() -> None:
    html = json_tree({"k\u200b": "invoice\u202egpj.exe\u0000\ufeff"})
    for character in "\u200b\u202e\u0000\ufeff":
        assert character not in html
    for escape in ("\\u200b", "\\u202e", "\\u0000", "\\ufeff"):
        assert escape in html


def test_line_breaks_and_letters_of_any_script_are_left_alone() -> None:
    assert "Müller\n東京 🙂" in json_tree(["Müller\n東京 🙂"])


def test_a_group_of_more_than_fifty_starts_closed_and_a_small_one_open() -> None:
    assert '<details class="json__group" open>' in json_tree({"few": list(range(50))})
    assert '<details class="json__group" open>' not in json_tree({"many": list(range(51))})
    assert '<details class="json__group" open>' not in json_tree(list(range(51)))


def test_a_long_text_is_cut_with_all_of_it_one_click_away() -> None:
    html = json_tree("word " * 200 + "end")
    assert "show all 1003 characters" in html
    assert html.count("end</span>") == 1


def test_numbers_words_and_empty_values_are_told_apart_from_texts() -> None:
    html = json_tree([1, 2.5, True, None, "true", "", [], {}, 2**70])
    for part in ("json__number", "json__word", "json__text", "empty text", "empty list", "empty object", str(2**70)):
        assert part in html


def test_like_records_are_a_table_and_unlike_ones_a_tree() -> None:
    assert "<th scope=" in json_tree({"rows": [{"a": 1, "b": "x"}, {"a": 2, "b": None}]})
    assert "<th scope=" not in json_tree({"rows": [{"a": 1}, {"b": 2}]})
    assert "<th scope=" not in json_tree({"rows": [{"a": [1]}, {"a": [2]}]})


def test_what_is_short_comes_before_what_is_long() -> None:
    html = json_tree({"a": [1], "b": "short", "c": {}})
    assert [html.index(f">{key}<") for key in "bca"] == sorted(html.index(f">{key}<") for key in "bca")


def test_a_huge_list_is_bounded_and_says_what_it_leaves_out() -> None:
    html = json_tree({"items": list(range(MAX_CHILDREN + 7))})
    assert "7 more not shown" in html
    assert html.count("<li>") <= MAX_CHILDREN + 2


def test_a_deep_value_does_not_exhaust_the_stack() -> None:
    value: Any = "bottom"
    for _ in range(100):
        value = [value]
    assert "bottom" in json_tree(value)
