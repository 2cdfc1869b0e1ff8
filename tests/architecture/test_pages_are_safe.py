"""Nothing in templates or code lets text become markup, and no page carries code or style inside itself."""

from __future__ import annotations

import re

import pytest

from tests.architecture.sources import files, python, relative

# Each place where markup is made on purpose, with the reason it is safe.
MARKUP_MADE_HERE = {"runs/json_tree.py": "joins parts that format_html and conditional_escape made"}
UNESCAPED = re.compile(r"\|\s*(?:safe|safeseq)\b|autoescape\s+off")
INLINE = re.compile(
    r"<style\b|\sstyle\s*=|<script(?![^>]*\b(?:src|type=\"application/json\"))[^>]*>|\son[a-z]+\s*=\s*[\"']"
    r"|\bhx-on\b|\bhx-vars\b|href\s*=\s*[\"']\s*javascript:|\bhx-[a-z-]+\s*=\s*[\"']\s*js:",
    re.IGNORECASE,
)
ELSEWHERE = re.compile(r"(?:src|href|action|hx-(?:get|post))\s*=\s*[\"']?\s*(?:https?:)?//", re.IGNORECASE)
COMMENT = re.compile(r"\{#.*?#\}|\{%\s*comment.*?endcomment\s*%\}", re.DOTALL)
MAKES_MARKUP = re.compile(r"\bmark_safe\b|\bSafeString\(|is_safe\s*=\s*True|\bSafeText\(|\.safe\b")
HTML_IN_STRINGS = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")


TAG = re.compile(r"\{%.*?%\}")


def found(pattern: re.Pattern[str], *paths: str) -> list[str]:
    return [
        f"{relative(path)}: {match.group().strip()}"
        for path in files(*paths)
        for match in pattern.finditer(COMMENT.sub("", path.read_text()))
    ]


def found_outside_tags(pattern: re.Pattern[str], *paths: str) -> list[str]:
    """What the browser would see; a tag's own arguments may be called as they like."""
    return [
        f"{relative(path)}: {match.group().strip()}"
        for path in files(*paths)
        for match in pattern.finditer(TAG.sub("", COMMENT.sub("", path.read_text())))
    ]


def test_templates_escape_everything() -> None:
    assert found(UNESCAPED, "templates/*.html", "runs/*.html") == []


def test_templates_hold_no_code_and_no_style() -> None:
    assert found_outside_tags(INLINE, "templates/*.html", "runs/*.html") == []


def test_templates_load_nothing_from_elsewhere() -> None:
    assert found(ELSEWHERE, "templates/*.html", "runs/*.html") == []


def test_code_makes_no_markup_but_where_it_is_listed() -> None:
    made = {relative(path) for path in python("runs", "flujo_site") if MAKES_MARKUP.search(path.read_text())}
    assert made == set(MARKUP_MADE_HERE)


def test_scripts_build_no_markup_from_strings() -> None:
    assert found(HTML_IN_STRINGS, "static/js/*.js") == []


def test_stylesheets_load_nothing_from_elsewhere() -> None:
    assert found(re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//"), "static/css/*.css") == []


@pytest.mark.parametrize(
    "markup",
    [
        "<p style='x'>",
        "<script>x</script>",
        '<a href="javascript:x">',
        '<p onclick="x">',
        "<style>",
        '<p hx-on:click="x">',
    ],
)
def test_the_search_for_inline_code_finds_it(markup: str) -> None:
    assert INLINE.search(markup)


@pytest.mark.parametrize("markup", ['<script src="x" type="module"></script>', '<p data-on="x">', '<a href="/x">'])
def test_the_search_for_inline_code_passes_what_is_not(markup: str) -> None:
    assert not INLINE.search(markup)
