"""The run list's filter as an object: a query string becomes a queryset, chips, links and sentences."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from typing import Any, ClassVar

from django import forms
from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone
from flujo.status import RunStatus

from runs.models import Run
from runs.queries import keyset


class _Terms(forms.Form):
    """The values of a filter; a field is named as its parameter."""

    status = forms.ChoiceField(required=False, choices=[(status.value, status.value) for status in RunStatus])
    pipeline = forms.CharField(required=False, max_length=200)
    version = forms.CharField(required=False, max_length=64)
    q = forms.CharField(required=False, max_length=200)
    tag = forms.CharField(required=False, max_length=100)
    to = forms.DateField(required=False)
    cursor = forms.CharField(required=False, max_length=500)

    def __init__(self, data: QueryDict) -> None:
        super().__init__(data)
        self.fields["from"] = forms.DateField(required=False)
        for name, field in self.fields.items():
            field.error_messages |= {
                "invalid": f"“{name}” is a date such as 2026-03-01.",
                "invalid_choice": "No status is called “%(value)s”. Statuses: " + ", ".join(RunStatus) + ".",
            }

    def clean_cursor(self) -> keyset.Cursor | None:
        text = self.cleaned_data["cursor"]
        try:
            return keyset.read(text) if text else None
        except keyset.InvalidCursor as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> None:
        since, until = self.cleaned_data.get("from"), self.cleaned_data.get("to")
        if since and until and since > until:
            raise forms.ValidationError(f"“from” ({since}) is after “to” ({until}).")


@dataclass(frozen=True, slots=True)
class Chip:
    """One active part of a filter and the link that removes it."""

    label: str
    value: str
    without: str


class RunFilter:
    """What part of the run list is asked for."""

    LABELS: ClassVar = {
        "status": "Status",
        "pipeline": "Pipeline",
        "version": "Version",
        "q": "Text",
        "tag": "Tag",
        "from": "From",
        "to": "To",
    }

    def __init__(self, query: QueryDict) -> None:
        self._given = {name: str(value).strip() for name, value in query.items() if str(value).strip()}
        self._twice = [name for name in query if len(query.getlist(name)) > 1]
        self._terms = _Terms(query)
        self._terms.is_valid()

    @cached_property
    def problems(self) -> list[str]:
        """What cannot be understood, a sentence each. A filter with problems shows no runs: it would show others."""
        said = [str(error) for errors in self._terms.errors.values() for error in errors]
        said += [f"“{name}” is given more than once. Give it one value." for name in self._twice]
        return said + [self._unknown(name) for name in self._given if name not in self._terms.fields]

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.LABELS, n=1)
        hint = f"Did you mean “{near[0]}”?" if near else f"Filters: {', '.join(self.LABELS)}."
        return f"There is no filter called “{name}”. {hint}"

    @property
    def cursor(self) -> keyset.Cursor | None:
        cursor: keyset.Cursor | None = self._terms.cleaned_data.get("cursor")
        return cursor

    @property
    def values(self) -> dict[str, str]:
        """The terms as they were typed, for the form; `since` stands for `from`, which templates cannot name."""
        return {**{name: self._given.get(name, "") for name in self.LABELS}, "since": self._given.get("from", "")}

    def apply(self, runs: QuerySet[Run], *, any_status: bool = False) -> QuerySet[Run]:
        """The runs this filter lets through; with `any_status`, those its status tabs count."""
        if self.problems:
            return runs.none()
        terms = self._terms.cleaned_data
        exact = {"pipeline": terms["pipeline"], "version": terms["version"]}
        if not any_status:
            exact["status"] = terms["status"]
        runs = runs.filter(**{name: value for name, value in exact.items() if value})
        return runs.filter(self._text(terms), self._days(terms))

    def _text(self, terms: dict[str, Any]) -> Q:
        found = Q(tags__contains=json.dumps(terms["tag"], ensure_ascii=False)) if terms["tag"] else Q()
        if terms["q"]:
            fields = ("title", "run_id", "requester", "owner")
            either = Q()
            for field in fields:
                either |= Q(**{f"{field}__icontains": terms["q"]})
            found &= either
        return found

    def _days(self, terms: dict[str, Any]) -> Q:
        found = Q()
        if terms["from"]:
            found &= Q(created_at__gte=_moment(terms["from"], time.min))
        if terms["to"]:
            found &= Q(created_at__lte=_moment(terms["to"], time.max))
        return found

    def query(self, **changes: str) -> str:
        """The query string of this filter with `changes`; an empty value drops its term, and paging starts anew."""
        terms = {name: value for name, value in self._given.items() if name in self.LABELS} | changes
        query = QueryDict(mutable=True)
        query.update({name: value for name, value in terms.items() if value})
        return query.urlencode()

    def url(self, **changes: str) -> str:
        """The list's address under this filter with `changes`."""
        query = self.query(**changes)
        return reverse("runs:runs") + (f"?{query}" if query else "")

    @property
    def here(self) -> str:
        """The address of this very page, without the empty parameters that a form sends."""
        return self.url(cursor=self._given.get("cursor", ""))

    @property
    def chips(self) -> list[Chip]:
        """The active terms in a fixed order."""
        active = [name for name in self.LABELS if self._given.get(name)]
        return [Chip(self.LABELS[name], self._given[name], self.url(**{name: ""})) for name in active]

    @property
    def sentence(self) -> str:
        """What an empty list says it looked for."""
        return " and ".join(f"{chip.label.lower()} “{chip.value}”" for chip in self.chips)


def _moment(day: date, hour: time) -> datetime:
    return timezone.make_aware(datetime.combine(day, hour))
