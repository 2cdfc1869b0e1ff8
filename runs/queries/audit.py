"""What the audit page shows: a window of events, newest first, of runs or of the site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from typing import Any, ClassVar

from django import forms
from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils import timezone
from flujo.status import EventKind

from runs import access, words
from runs.audit_words import RUN_EVENTS, SITE_EVENTS, EventWords, event_words, fact_label, summary
from runs.filters import Chip
from runs.models import AuditEvent, Run, SiteEvent, Tombstone

SIZE = 50
RUNS, SITE = "runs", "site"
LONGEST_FACT = 300


class _Terms(forms.Form):
    """The values of a filter; a field is named as its parameter."""

    tab = forms.ChoiceField(required=False, choices=[(RUNS, "Runs"), (SITE, "Site")])
    run = forms.CharField(required=False, max_length=128)
    person = forms.CharField(required=False, max_length=150)
    to = forms.DateField(required=False)
    before = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    after = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)

    def __init__(self, data: QueryDict, kinds: dict[str, EventWords]) -> None:
        super().__init__(data)
        self.fields["from"] = forms.DateField(required=False)
        choices = [(kind, words.words) for kind, words in kinds.items()]
        self.fields["kind"] = forms.ChoiceField(required=False, choices=choices)
        for name, field in self.fields.items():
            field.error_messages |= {
                "invalid": f"“{name}” is not understood. Dates look like 2026-03-01.",
                "invalid_choice": f"There is no {name} “%(value)s” here.",
            }

    def clean(self) -> None:
        since, until = self.cleaned_data.get("from"), self.cleaned_data.get("to")
        if since and until and since > until:
            raise forms.ValidationError(f"“from” ({since}) is after “to” ({until}).")


class AuditFilter:
    """What part of the audit is asked for: a query string becomes a queryset, chips, links and sentences."""

    LABELS: ClassVar = {"run": "Run", "person": "Person", "kind": "Kind", "from": "From", "to": "To"}
    KEPT: ClassVar = ("tab", *LABELS)

    def __init__(self, query: QueryDict) -> None:
        self._given = {name: str(value).strip() for name, value in query.items() if str(value).strip()}
        self.site = self._given.get("tab") == SITE
        self.kinds = SITE_EVENTS if self.site else RUN_EVENTS
        self._terms = _Terms(query, self.kinds)
        self._terms.is_valid()

    @cached_property
    def problems(self) -> list[str]:
        """What cannot be understood. A filter with problems shows no events: it would show others."""
        said = [str(error) for errors in self._terms.errors.values() for error in errors]
        unknown = [name for name in self._given if name not in self._terms.fields and name != "csrfmiddlewaretoken"]
        return said + [f"There is no filter called “{name}”. Filters: {', '.join(self.LABELS)}." for name in unknown]

    @property
    def values(self) -> dict[str, str]:
        """The terms as they were typed; `since` stands for `from`, which templates cannot name."""
        return {**{name: self._given.get(name, "") for name in self.KEPT}, "since": self._given.get("from", "")}

    @property
    def before(self) -> int | None:
        before: int | None = self._terms.cleaned_data.get("before")
        return before

    @property
    def after(self) -> int | None:
        after: int | None = self._terms.cleaned_data.get("after")
        return after

    def apply(self, events: QuerySet[Any]) -> QuerySet[Any]:
        """The events this filter lets through."""
        if self.problems:
            return events.none()
        terms = self._terms.cleaned_data
        exact = {"run_id": terms["run"], "actor": terms["person"], "kind": terms["kind"]}
        days = Q()
        if terms["from"]:
            days &= Q(at__gte=_moment(terms["from"], time.min))
        if terms["to"]:
            days &= Q(at__lte=_moment(terms["to"], time.max))
        return events.filter(days, **{name: value for name, value in exact.items() if value})

    def url(self, **changes: str) -> str:
        """The query string of this filter with `changes`; an empty value drops its term, and paging starts anew."""
        terms = {name: value for name, value in self._given.items() if name in self.KEPT} | changes
        query = QueryDict(mutable=True)
        query.update({name: value for name, value in terms.items() if value})
        return "?" + query.urlencode()

    @property
    def chips(self) -> list[Chip]:
        """The active terms in a fixed order."""
        shown = {**self._given, "kind": event_words(self._given.get("kind", "")).words}
        active = [name for name in self.LABELS if self._given.get(name)]
        return [Chip(self.LABELS[name], shown[name], self.url(**{name: ""})) for name in active]

    @property
    def terms(self) -> dict[str, str]:
        """The active terms, as the record of an export names them."""
        return {name: self._given[name] for name in self.KEPT if self._given.get(name)}


@dataclass(frozen=True, slots=True)
class Fact:
    """One further fact of an event."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the page."""

    id: int
    seq: int
    at: datetime
    actor: str
    kind: str
    words: EventWords
    run_id: str
    subject: str
    deleted: bool
    path: str
    summary: str
    reason: str
    channel: str
    ip: str
    facts: list[Fact]
    hash: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A window of events and the links to its neighbours."""

    rows: list[EventRow]
    older: str = ""
    newer: str = ""
    any_at_all: bool = True


def events_for(user: access.User, asked: AuditFilter) -> QuerySet[Any]:
    """The events that `asked` names, as far as `user` may see them; who may see the site's is the view's question."""
    return asked.apply(SiteEvent.objects.all() if asked.site else access.visible_events(user))


def page(user: access.User, asked: AuditFilter) -> AuditPage:
    """The page that `asked` names; ids grow with time, so they are the key of the paging."""
    events = events_for(user, asked)
    if asked.after is not None:
        found = list(events.filter(pk__gt=asked.after).order_by("pk")[: SIZE + 1])
        more_newer, more_older = len(found) > SIZE, True
        found = found[:SIZE][::-1]
    else:
        older = events.filter(pk__lt=asked.before) if asked.before is not None else events
        found = list(older.order_by("-pk")[: SIZE + 1])
        more_newer, more_older = asked.before is not None, len(found) > SIZE
        found = found[:SIZE]
    return AuditPage(
        rows=_rows(user, found),
        older=asked.url(before=str(found[-1].pk)) if found and more_older else "",
        newer=asked.url(after=str(found[0].pk)) if found and more_newer else "",
        any_at_all=bool(found) or bool(asked.terms),
    )


def _rows(user: access.User, events: list[Any]) -> list[EventRow]:
    ids = {event.run_id for event in events if event.run_id}
    stored = _subjects(Run.objects.filter(pk__in=ids))
    gone = _subjects(Tombstone.objects.filter(pk__in=ids - stored.keys()))
    facts = facts_for(user, events)
    return [
        _row(event, told, {**gone, **stored}.get(event.run_id, ""), deleted=event.run_id in gone)
        for event, told in zip(events, facts, strict=True)
    ]


def _subjects(kept: QuerySet[Run] | QuerySet[Tombstone]) -> dict[str, str]:
    """What each of these is called, by its id."""
    return {
        pk: words.subject(title, pipeline, pk) for pk, title, pipeline in kept.values_list("pk", "title", "pipeline")
    }


def facts_for(user: access.User, events: list[Any]) -> list[dict[str, Any]]:
    """The facts of each event for `user`: the values of edits only where `user` may see those that runs carry."""
    told = [facts_of(event) for event in events]
    forks = {event.run_id for event in events if event.kind == EventKind.RUN_FORKED}
    granted = access.pipelines_for(user, "view_context") if forks else None
    if granted is None:
        return told
    readable = {
        run_id
        for kept in (Run, Tombstone)
        for run_id in kept.objects.filter(pk__in=forks, pipeline__in=granted).values_list("pk", flat=True)
    }
    hidden = forks - readable
    return [
        _without_values(facts) if event.run_id in hidden and "edits" in facts else facts
        for event, facts in zip(events, told, strict=True)
    ]


def _without_values(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "edits": [{"pointer": edit["pointer"]} for edit in facts["edits"]]}


def _row(event: AuditEvent | SiteEvent, data: dict[str, Any], subject: str, *, deleted: bool) -> EventRow:
    further = [name for name in data if name not in ("channel", "ip", "reason")]
    return EventRow(
        id=event.pk,
        seq=event.seq,
        at=event.at,
        actor=event.actor,
        kind=event.kind,
        words=event_words(event.kind),
        run_id=event.run_id,
        subject=subject,
        deleted=deleted,
        path=getattr(event, "path", ""),
        summary=summary(event.kind, data),
        reason=str(data.get("reason") or ""),
        channel=str(data.get("channel") or ""),
        ip=str(data.get("ip") or ""),
        facts=[Fact(fact_label(name), _text(data[name])) for name in further if data[name] not in ("", None)],
        hash=event.hash,
    )


def facts_of(event: AuditEvent | SiteEvent) -> dict[str, Any]:
    """The data of an event's body; a damaged body has none here, and `verify` names it."""
    try:
        data = json.loads(event.body)["data"]
    except (ValueError, KeyError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_FACT else text[:LONGEST_FACT] + "…"


def _moment(day: date, hour: time) -> datetime:
    return timezone.make_aware(datetime.combine(day, hour))
