"""The console's template tags: one component each for states, times, durations, ids, people, icons and JSON."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from heroicons.templatetags.heroicons import heroicon_mini

from runs import display, words
from runs import json_tree as json_trees
from runs.words import ago_words, due_words, duration_words, for_words

register = template.Library()


def _badge(badge: display.Badge) -> SafeString:
    return format_html(
        '<span class="badge badge--{}" title="{}"><svg class="badge__shape" viewBox="0 0 16 16" aria-hidden="true">'
        '<use href="#shape-{}"/></svg>{}</span>',
        badge.tone,
        badge.meaning,
        badge.shape,
        badge.word,
    )


@register.simple_tag
def status_badge(
    status: str, wait: str | None = None, outcome: str | None = None, stalled: object = None
) -> SafeString:
    """A run's state: shape and word. `stalled` marks a running run whose lease has expired."""
    return _badge(display.STALLED if stalled else display.run_badge(status, wait, outcome))


@register.simple_tag
def state_badge(state: str) -> SafeString:
    """The state of a step, an attempt, a human task or a decision, by its word in `display.STATE_BADGES`."""
    return _badge(display.state_badge(state))


@register.simple_tag
def ago(when: datetime | None) -> SafeString | str:
    """How long ago (or in how long), with the exact time in the title; a script keeps the words true."""
    if when is None:
        return "–"
    return format_html(
        '<time class="ago" datetime="{}" title="{}" data-ago>{}</time>',
        when.isoformat(),
        timezone.localtime(when).strftime("%a %d %b %Y, %H:%M:%S %Z"),
        ago_words((timezone.now() - when).total_seconds()),
    )


@register.simple_tag
def lasting(since: datetime) -> SafeString:
    """How long it has lasted since a moment, with that moment in the title; a script keeps the words true."""
    return format_html(
        '<time class="ago" datetime="{}" title="since {}" data-for>{}</time>',
        since.isoformat(),
        timezone.localtime(since).strftime("%a %d %b %Y, %H:%M:%S %Z"),
        for_words((timezone.now() - since).total_seconds()),
    )


@register.simple_tag
def at(when: datetime | None) -> SafeString | str:
    """The exact time, for histories and headers."""
    if when is None:
        return "–"
    return format_html(
        '<time datetime="{}">{}</time>', when.isoformat(), timezone.localtime(when).strftime("%d %b %Y, %H:%M:%S %Z")
    )


@register.simple_tag
def on_its_clock(when: datetime) -> SafeString:
    """A coming instant as the clock of its own time zone shows it, with the day of the week."""
    return format_html('<time datetime="{}">{}</time>', when.isoformat(), when.strftime("%a %d %b %Y, %H:%M %Z"))


@register.simple_tag
def until(when: datetime | None, form: str = "until {} ({})") -> SafeString | str:
    """An instant that something waits for: its time of day, its day where that isn't today, and how far it is."""
    if when is None:
        return ""
    now, local = timezone.now(), timezone.localtime(when)
    day = "" if local.date() == timezone.localtime(now).date() else local.strftime("%d %b %Y, ")
    distance = format_html(
        '<time datetime="{}" data-ago>{}</time>', when.isoformat(), ago_words((now - when).total_seconds())
    )
    return format_html(form, day + local.strftime("%H:%M %Z"), distance)


@register.simple_tag
def due(when: datetime | None) -> SafeString | str:
    """How long until a deadline, or since; the exact time in the title; a script keeps the words true."""
    if when is None:
        return ""
    return format_html(
        '<time class="due" datetime="{}" title="{}" data-due>{}</time>',
        when.isoformat(),
        timezone.localtime(when).strftime("%a %d %b %Y, %H:%M:%S %Z"),
        due_words((when - timezone.now()).total_seconds()),
    )


@register.simple_tag
def duration(seconds: float | None) -> SafeString | str:
    """A length of time in the two units that matter."""
    if seconds is None:
        return "–"
    return format_html('<span class="duration" title="{} s">{}</span>', f"{seconds:.3f}", duration_words(seconds))


@register.simple_tag
def short_id(run_id: str) -> SafeString:
    """A run id, a long one cut to its two ends; the whole id in the title."""
    return format_html('<code class="short-id" title="{}">{}</code>', run_id, words.short_id(run_id))


@lru_cache(maxsize=64)
def _heroicon(name: str) -> str:
    return heroicon_mini(name, size=20, **{"class": "icon", "aria-hidden": "true"})


@register.simple_tag
def icon(name: str) -> str:
    """A decorative heroicon at the size of the text; the words stand beside it."""
    return _heroicon(str(name))


@register.simple_tag
def person(username: str) -> SafeString:
    """A user, a group (`group:finance`), or the engine itself when nobody is named."""
    if not username:
        return format_html('<span class="person person--engine">{}{}</span>', _heroicon("cpu-chip"), "engine")
    if username.startswith("group:"):
        group = username.removeprefix("group:")
        return format_html('<span class="person">{}{}</span>', _heroicon("user-group"), group)
    return format_html(
        '<span class="person"><span class="person__mark" aria-hidden="true">{}</span>{}</span>',
        username[:1].upper(),
        username,
    )


@register.simple_tag
def json_tree(value: Any) -> SafeString:
    """A Python value as a collapsible tree of JSON."""
    return json_trees.json_tree(value)
