"""One table gives every state its word, shape and tone; the tones can be told apart, and every text can be read."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from django.template.loader import render_to_string
from flujo.status import AttemptOutcome, DecisionOutcome, Outcome, RunStatus, TaskStatus, Wait

from runs import display
from tests.runs import colour

ROOT = Path(__file__).resolve().parents[2]
TOKENS = (ROOT / "static/css/tokens.css").read_text()
BADGES = {*display.RUN_BADGES.values(), *display.STATE_BADGES.values()}
SURFACES = ["bg", "surface", "surface-raised", "surface-sunken", "hover", "selected"]


def _tokens(theme: str) -> dict[str, str]:
    """The colours of a theme: each is written once, as `light-dark(light, dark)`."""
    found = re.findall(r"--((?:color|tone)-[\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", TOKENS)
    return {name: light if theme == "light" else dark for name, light, dark in found}


THEMES = {theme: _tokens(theme) for theme in ("light", "dark")}


def _tones(theme: str) -> dict[str, str]:
    return {name: value for name, value in THEMES[theme].items() if name.startswith("tone-")}


def test_every_paused_run_says_what_it_waits_for() -> None:
    for wait in Wait:
        assert display.run_badge(RunStatus.PAUSED, wait).word


def test_every_status_has_a_badge_with_every_outcome_and_without() -> None:
    for status in set(RunStatus) - {RunStatus.PAUSED}:
        for outcome in [None, *Outcome]:
            assert display.run_badge(status, None, outcome).word


def test_a_rejected_run_is_not_shown_as_cancelled_or_failed() -> None:
    assert display.run_badge("cancelled", None, "rejected").word == "Rejected"
    assert display.run_badge("cancelled").word == "Cancelled"


def test_every_state_of_tasks_decisions_and_attempts_has_a_badge() -> None:
    for word in [*TaskStatus, *DecisionOutcome, *AttemptOutcome]:
        assert display.state_badge(word).word


def test_a_word_has_one_shape_and_a_tone_one_colour() -> None:
    by_word = {badge.word: badge for badge in BADGES}
    assert len(by_word) == len(BADGES)
    assert {f"tone-{badge.tone}" for badge in BADGES} == set(_tones("light")) == set(_tones("dark"))


def test_every_shape_is_drawn() -> None:
    drawn = set(re.findall(r'id="shape-([\w-]+)"', render_to_string("components/_shapes.html")))
    assert {badge.shape for badge in BADGES} == drawn


def test_every_colour_says_how_it_is_in_the_dark() -> None:
    assert len(re.findall(r"--(?:color|tone)-[\w-]+:", TOKENS)) == len(THEMES["dark"]) > 20


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_stands_out_from_every_surface(theme: str) -> None:
    tokens = THEMES[theme]
    for text, surface in itertools.product(["text", "text-muted", "link"], SURFACES):
        assert colour.contrast(tokens[f"color-{text}"], tokens[f"color-{surface}"]) >= 4.5, (text, surface)
    for tone in ["danger", "warning", "success", "info"]:
        for surface in ["surface", f"{tone}-soft"]:
            assert colour.contrast(tokens[f"color-{tone}"], tokens[f"color-{surface}"]) >= 4.5, (tone, surface)
        assert colour.contrast(tokens["color-text"], tokens[f"color-{tone}-soft"]) >= 4.5
    assert colour.contrast(tokens["color-on-accent"], tokens["color-accent"]) >= 4.5
    assert colour.contrast(tokens["color-on-accent"], tokens["color-accent-hover"]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_shapes_controls_and_focus_stand_out_from_every_surface(theme: str) -> None:
    tokens = THEMES[theme]
    for name, surface in itertools.product([*_tones(theme), "color-accent", "color-border-strong"], SURFACES):
        assert colour.contrast(tokens[name], tokens[f"color-{surface}"]) >= 3, (name, surface)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("sight", "least"), [("normal", 10), ("deuteranopia", 8), ("protanopia", 8)])
def test_tones_can_be_told_apart(theme: str, sight: str, least: float) -> None:
    seen = {name: colour.as_seen(value, sight) for name, value in _tones(theme).items()}
    for (one, first), (other, second) in itertools.combinations(seen.items(), 2):
        assert colour.difference(first, second) >= least, (one, other)


def test_the_colour_maths_agrees_with_published_values() -> None:
    """Pairs from Sharma, Wu and Dalal's test data for CIEDE2000; the contrast of black on white is 21."""
    for one, other, expected in [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ]:
        assert colour.difference(one, other) == pytest.approx(expected, abs=1e-4)
    assert colour.contrast("#000000", "#ffffff") == pytest.approx(21)
